"""Metrics: how good an explanation is. One function and YAML in configs/metric/ each; the contract is in base.py."""
