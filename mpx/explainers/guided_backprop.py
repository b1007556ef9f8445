"""Guided backprop (Springenberg et al. 2015): the gradient, with ReLUs that pass back positive values only.

The network is not changed: torch's functions are, while it runs. ReLU and ReLU6 count, as modules or functions, in place or
not.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from mpx.explainers.base import ExplainerContext
from mpx.explainers.gradients import input_gradients, largest_over_colours
from mpx.explainers.torch_functions import function_name, is_relu
from mpx.models.classifier import Classifier
from mpx.option_values import Count


def guided_backprop(
    images: Tensor, classifier: Classifier, targets: Tensor, context: ExplainerContext, max_batch: Count = 64
) -> Tensor:
    """Return the largest absolute value over colours of the guided gradient."""
    with GuidedReLUs() as guided:
        gradients = input_gradients(images, classifier, targets, max_batch)
    if not guided.relus:
        raise ValueError(
            f"explainer=guided_backprop changes the backward pass of ReLUs, and model {classifier.name} has none: "
            "choose explainer=gradient"
        )
    return largest_over_colours(gradients)


class GuidedReLUs(TorchFunctionMode):
    """A context in which ReLUs pass back positive gradients only; counts them."""

    relus = 0

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run a torch function; after a ReLU clamp the gradient of its output."""
        out = function(*args, **(kwargs or {}))
        if is_relu(function_name(function), args, kwargs or {}):
            self.relus += 1
            if out.requires_grad:
                out.register_hook(lambda gradient: gradient.clamp(min=0))
        return out
