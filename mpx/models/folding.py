"""Batch norms folded into the convolutions before them, while a frozen network computes many images.

In eval mode a batch norm scales and shifts each channel, which the convolution's weights can do themselves: a pass costs two
thirds (efficientnet_lite0, 16 photos on a CPU) and gives the same logits up to rounding. Modules, parameters and hooks stay
in place: two `forward` methods shadow those of the classes until the folding is undone.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import FrozenBatchNorm2d

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)  # timm's subclass BatchNorm2d and include an activation
Pairs = dict[nn.Module, nn.Module]  # convolution -> its batch norm


def fold(
    network: nn.Module, device: torch.device, shape: Sequence[int], comparable: Callable[[Tensor], Tensor] = lambda x: x
) -> Pairs:
    """Fold every batch norm that can be folded; return convolution -> batch norm, for `unfold_pair`.

    comparable: the part of an output that rounding changes little.

    All is undone where the logits of a random image of `shape` (C,H,W) change by more than 1e-4 of the largest, or where
    anything fails.
    """
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, *shape, generator=random).to(device)
    folded: Pairs = {}
    equal = False
    with torch.no_grad():
        try:
            pairs, logits = _find_pairs(network, image)
        except Exception:  # mpx.models.checks reports why the network fails
            return {}
        try:
            for conv, norm in pairs:
                fold_pair(conv, norm)
                folded[conv] = norm
            before, after = comparable(logits), comparable(network(image) if folded else logits)
            equal = bool((after - before).abs().max() <= 1e-4 * before.abs().max())
        finally:
            if not equal:
                for pair in folded.items():
                    unfold_pair(*pair)
    return folded if equal else {}


def fold_pair(conv: nn.Module, norm: nn.Module) -> None:
    """Let a convolution compute its batch norm too, and the batch norm only its dropout and activation."""
    twin: Any = copy.copy(conv)
    bn: Any = norm  # attributes of an nn.Module have no types of their own
    weights = fuse_conv_bn_weights(twin.weight, twin.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    twin._parameters = dict(zip(("weight", "bias"), weights))
    twin.forward = type(conv).forward.__get__(twin)
    conv.forward = twin.forward
    steps = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]  # foreign: timm
    norm.forward = nn.Sequential(*steps).forward


def unfold_pair(conv: nn.Module, norm: nn.Module) -> None:
    """Undo `fold_pair`."""
    for module in (conv, norm):
        del module.forward


def _find_pairs(network: nn.Module, image: Tensor) -> tuple[list[tuple[nn.Module, nn.Module]], Tensor]:
    """Return (convolution, batch norm) where the batch norm gets exactly that convolution's output and each runs once, and
    the image's logits.
    """
    runs: Counter[nn.Module] = Counter()
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs, handles = [], []

    def after_conv(conv: nn.Module, args: tuple, out: Tensor) -> None:
        runs[conv] += 1
        outputs[id(out)] = conv, out  # the tensor stays alive, or another could get its id

    def before_norm(norm: nn.Module, args: tuple) -> None:
        runs[norm] += 1
        conv, out = outputs.get(id(args[0]) if args else 0, (None, None))
        if conv is not None and out is not None and out._version == 0:  # not changed in place in between
            pairs.append((conv, norm))

    try:
        for module in network.modules():
            hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks  # see the same
            if hooked or "forward" in vars(module) or is_parametrized(module):
                continue
            if isinstance(module, nn.Conv2d):
                handles.append(module.register_forward_hook(after_conv))
            elif isinstance(module, NORMS) and module.running_var is not None:
                handles.append(module.register_forward_pre_hook(before_norm))
        logits = network(image)
    finally:
        for handle in handles:
            handle.remove()
    return [(conv, norm) for conv, norm in pairs if runs[conv] == runs[norm] == 1], logits
