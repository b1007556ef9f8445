"""Batch norms folded into the convolutions before them, or computed as scale and shift, while a frozen network computes.

In eval mode a batch norm scales and shifts each channel. The weights of the convolution before it can do that: a pass costs
two thirds (efficientnet_lite0, 16 photos on a CPU) and gives the same output up to rounding. The other norms are computed
without torch's batch norm, which has a wrong backward (2.14, CPU) for a single image before a transposition, as in hybrids
with tokens; torch's instance norm calls it, too. Modules, parameters and hooks stay in place: `forward` methods shadow those
of the classes until `restore`.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import FrozenBatchNorm2d

FOLDED = (nn.BatchNorm2d, FrozenBatchNorm2d)  # timm's subclass BatchNorm2d and include an activation
REPLACED = (_BatchNorm, _InstanceNorm)
TOLERANCE = 1e-3  # of the largest number of an output; rounding changes 1e-6 in most networks, a wrong folding 1e-2
Pairs = dict[nn.Module, nn.Module]  # convolution -> its batch norm
Replaced = dict[nn.Module, nn.Module | None]  # convolution -> its batch norm; a norm that is not folded -> None


def fold(
    network: nn.Module, image: Tensor, comparable: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Replaced, float]:
    """Fold every batch norm that can be folded, and replace all other norms; return them for `restore`.

    image: (1,C,H,W), whose output must stay the same; where it changes by more than TOLERANCE no norm is folded, and where
    that does not help either, none is replaced. comparable: the part of an output that rounding changes little.

    Also return the change of the output that prevented this, as a share of its largest number; 0 where nothing did.
    """
    modules = [module for module in network.modules() if isinstance(module, (*FOLDED, *REPLACED))]
    if not modules:
        return {}, 0.0
    try:
        pairs, output = _find_pairs(network, image)
    except Exception:  # mpx.models.checks reports why the network fails
        return {}, 0.0
    if not output.isfinite().all():  # here, too
        return {}, 0.0
    norms = {module for module in modules if _is_replaceable(module)}
    change = 0.0
    for chosen in [pairs, {}] if pairs else [{}]:
        replaced: Replaced = {}
        equal = False
        try:
            for conv, norm in chosen.items():
                replaced[conv] = norm
                fold_pair(conv, norm)
            for norm in norms - set(chosen.values()):
                replaced[norm] = None
                replace_norm(norm)
            new_change = _change(comparable(output), network, image, comparable) if replaced else 0.0
            equal = new_change <= TOLERANCE
        finally:
            if not equal:
                restore(replaced)
        if equal:
            return replaced, change
        change = change or new_change
    return {}, change


def fold_pair(conv: nn.Module, norm: nn.Module) -> None:
    """Let a convolution compute its batch norm too, and the batch norm only its dropout and activation."""
    twin: Any = copy.copy(conv)
    bn: Any = norm  # attributes of an nn.Module have no types of their own
    weights = fuse_conv_bn_weights(twin.weight, twin.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    twin._parameters = dict(zip(("weight", "bias"), weights))
    twin.forward = type(conv).forward.__get__(twin)
    conv.forward = twin.forward
    norm.forward = _after(norm).forward


def replace_norm(norm: nn.Module) -> None:
    """Let a norm compute the same with right gradients."""
    if isinstance(norm, REPLACED):  # torchvision's frozen norm is a scale and shift already
        substitute = GroupNormOfChannels(norm) if norm.running_var is None else ScaleAndShift(norm)
        vars(norm)["forward"] = substitute.forward


def restore(replaced: Replaced) -> None:
    """Undo `fold_pair` and `replace_norm`."""
    for modules in replaced.items():
        for module in modules:
            if module is not None:
                vars(module).pop("forward", None)


class ScaleAndShift(nn.Module):
    """A norm with running statistics in eval mode."""

    def __init__(self, norm: Any):
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        self.scale = scale if norm.weight is None else scale * norm.weight
        self.shift = -norm.running_mean * self.scale
        self.shift = self.shift if norm.bias is None else self.shift + norm.bias
        self.after = _after(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,...) to its scaled and shifted channels, of the same type."""
        shape = (-1, *[1] * (x.ndim - 2))
        return self.after(torch.addcmul(self.shift.view(shape), x, self.scale.view(shape)).to(x.dtype))


class GroupNormOfChannels(nn.Module):
    """An instance norm as a group norm of one channel per group, whose backward is right."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,...) to normalised channels."""
        return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


def _after(norm: nn.Module) -> nn.Module:
    """Return the dropout and activation that a norm of timm includes."""
    return nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))  # foreign: timm


def _is_replaceable(module: nn.Module) -> bool:
    """Return whether a norm's output for an image is independent of the others in its batch."""
    if not isinstance(module, REPLACED) or not _is_plain(module):
        return False
    return isinstance(module, _InstanceNorm) or module.running_var is not None


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module computes what its class does from its own parameters."""
    return "forward" not in vars(module) and not is_parametrized(module)


@torch.no_grad()
def _change(before: Tensor, network: nn.Module, image: Tensor, comparable: Callable[[Tensor], Tensor]) -> float:
    """Return the largest change of an output, as a share of its largest number."""
    largest = before.abs().max()
    return ((comparable(network(image)) - before).abs().max() / largest.clamp(min=torch.finfo(before.dtype).tiny)).item()


@torch.enable_grad()
def _find_pairs(network: nn.Module, image: Tensor) -> tuple[Pairs, Tensor]:
    """Return convolution -> batch norm, where the norm alone gets exactly that convolution's output and each runs once.

    Also return the output for the image.
    """
    runs: Counter[nn.Module] = Counter()
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    found, handles = [], []

    def after_conv(conv: nn.Module, args: tuple, out: Tensor) -> None:
        runs[conv] += 1
        outputs[id(out)] = conv, out  # the tensor stays alive, or another could get its id

    def before_norm(norm: nn.Module, args: tuple) -> None:
        runs[norm] += 1
        conv, out = outputs.get(id(args[0]) if args else 0, (None, None))
        if conv is not None and out is not None and out._version == 0:  # not changed in place in between
            found.append((conv, norm, out.grad_fn))

    try:
        for module in network.modules():
            hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks  # see the same
            if hooked or not _is_plain(module):
                continue
            if isinstance(module, nn.Conv2d):
                handles.append(module.register_forward_hook(after_conv))
            elif isinstance(module, FOLDED) and module.running_var is not None:
                handles.append(module.register_forward_pre_hook(before_norm))
        output = network(image.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    uses = _uses(output.grad_fn)
    return {conv: norm for conv, norm, node in found if runs[conv] == runs[norm] == uses[node] == 1}, output.detach()


def _uses(root: Any) -> Counter[Any]:
    """Return how often the result of each node of autograd's graph below `root` is used."""
    uses: Counter[Any] = Counter()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        nodes = [used for used, _ in node.next_functions] if node else []  # None: no gradient is needed there
        waiting += {used for used in nodes if used not in uses}
        uses.update(nodes)
    del uses[None]
    return uses
