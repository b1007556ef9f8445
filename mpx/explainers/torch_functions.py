"""Recognition of torch's functions by name, for explainers that change their backward pass while the network runs."""

from collections.abc import Callable


def function_name(function: Callable) -> str:
    """Return the name of a torch function as a TorchFunctionMode sees it."""
    return getattr(function, "__name__", str(function))  # foreign: a function of torch


def is_relu(name: str, args: tuple, kwargs: dict) -> bool:
    """Return whether a call is a ReLU: relu, relu_, relu6, or hardtanh from 0."""
    if name in ("relu", "relu_", "relu6"):
        return True
    return name == "hardtanh" and [*args, kwargs.get("min_val", -1.0)][1] == 0
