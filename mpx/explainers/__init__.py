"""Explainers: methods that learn no mask. One function and YAML in configs/explainer/ each; the contract is in base.py."""
