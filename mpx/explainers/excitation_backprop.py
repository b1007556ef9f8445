"""Excitation backprop (Zhang et al. 2016): a neuron's probability goes to its inputs by their positive parts.

The network is not changed: torch's functions are, while it runs. The paper's inputs are not negative, as after a ReLU. Where
an input may be negative (a bottleneck without activation, a sum of branches), its share is the positive part of weight times
input, which is the paper's rule for other inputs. Biases receive no probability, and batch norms pass it on unchanged (as in
TorchRay). So no probability is lost where any share is positive.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mpx.explainers.base import ExplainerContext, split_rows
from mpx.explainers.layer_maps import choose_layer, upsample
from mpx.explainers.torch_functions import function_name, is_relu
from mpx.models.classifier import Classifier
from mpx.models.layers import Layer
from mpx.option_values import Count, ShareAboveZero

LINEAR: dict[str, Callable] = {"conv2d": F.conv2d, "linear": F.linear}
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean")
ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")
UNCHANGED = {"max_pool2d", "cat", "concat", "flatten", "view", "reshape", "dropout", "pad", "permute", "transpose",
             "contiguous", "chunk", "split", "squeeze", "unsqueeze", "__getitem__", "clone", "to"}  # fmt: skip
QUERIES = {"__get__", "size", "dim", "numel", "__len__", "_assert", "is_contiguous", "is_floating_point"}
Term = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]  # input x, its part that receives probability, a linear function


def excitation_backprop(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    layer: str | int | None = None,
    min_map_fraction: ShareAboveZero = 0.0625,
    max_batch: Count = 64,
) -> Tensor:
    """Return the probability that arrives at a layer, summed over its channels.

    layer: see `choose_layer`. min_map_fraction: smallest side of the default layer's map, as a share of the image's.
    """
    with classifier.unfolded():  # the rules use the network's own weights
        target_layer = choose_layer(images, classifier, layer, min_map_fraction)
        maps = [excitation_at(target_layer, x, y) for x, y in split_rows(max_batch, images, targets)]
    return upsample(torch.cat(maps), images)


@torch.enable_grad()
def excitation_at(layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    """Return the probability at the layer (B,1,h,w); it sums to 1 where every neuron has a positive input."""
    outputs: list[Tensor] = []
    rules = ExcitationRules(layer.classifier.name)

    def start_rules(features: Tensor) -> Tensor:
        outputs.append(features.detach().clone().requires_grad_())
        rules.active = True  # earlier modules need no rule
        return outputs[0].clone()

    with rules, layer.patched(start_rules):
        output = layer.classifier(images)
    return torch.autograd.grad(layer.classifier.task.logit(output, targets).sum(), outputs[0])[0].sum(1, keepdim=True)


class ExcitationRules(TorchFunctionMode):
    """A context in which torch's functions pass back probability instead of gradients, once `active`."""

    active = False

    def __init__(self, model_name: str):
        super().__init__()
        self.model_name = model_name

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run a torch function with the backward pass of its rule."""
        kwargs, name = kwargs or {}, function_name(function)
        if not self.active or name in UNCHANGED | QUERIES:
            return function(*args, **kwargs)
        with torch.no_grad():
            first = (value.clone() if isinstance(value, Tensor) else value for value in args[:1])  # it may work in place
            out = function(*first, *args[1:], **kwargs)
        x = args[0] if args else kwargs["input"]
        if is_relu(name, args, kwargs) or name == "batch_norm":
            return _with_backward_of(out, x)
        if name in MEANS:
            return _distribute(out, [(x, x.clamp(min=0), lambda part: function(part, *args[1:], **kwargs))])
        if name in ADDITIONS and not kwargs:
            branches = [value for value in args if isinstance(value, Tensor)]
            return _distribute(out, [(value, value.clamp(min=0), lambda part: part) for value in branches])
        if name in LINEAR:
            return _distribute(out, _positive_terms(LINEAR[name], x, args, kwargs))
        raise ValueError(
            f"explainer=excitation_backprop has no rule for {name}, which model {self.model_name} uses: choose another "
            "explainer, or a later layer with explainer.layer="
        )


def _positive_terms(function: Callable, x: Tensor, args: tuple, kwargs: dict) -> list[Term]:
    """Return the terms of a linear function's positive part: positive weights and inputs, negative weights and inputs."""
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    positional = args[3:]
    named = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}

    def term(**sign: int) -> Term:
        clamped = weight.clamp(**sign)
        return x, x.clamp(**sign), lambda part: function(part, clamped, None, *positional, **named)

    return [term(min=0)] + [term(max=0)] * bool((x < 0).any())


def _distribute(out: Tensor, terms: list[Term]) -> Tensor:
    """Return `out`, which passes p back as x_j sum_i f_ij p_i / sum_k f_ik x_k, for `terms`, see Term."""
    with torch.no_grad():
        sums = sum((f(part) for _, part, f in terms), torch.zeros(()).to(out))
        inverse = torch.where(sums > torch.finfo(sums.dtype).tiny, 1 / sums, 0.0)
    shares = [f(x * part.detach()) for x, part, f in terms]
    return _with_backward_of(out, sum(shares[1:], shares[0]) * inverse)


def _with_backward_of(value: Tensor, source: Tensor) -> Tensor:
    """Return `value` with the backward pass of `source`."""
    return value.detach() + (source - source.detach())
