"""Of a method rather than of one map: does it look at the network, and does it say the same twice?

Here rows are explained again, by `explain`, so that these cost as much as several runs.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from mpx.models.classifier import Classifier
from mpx.randomness import key


def sanity(
    saliency: Tensor,
    classifier,
    images: Tensor,
    targets: Tensor,
    explain,
    stages: int = 4,
    how: str = "shuffle",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Spearman's rank correlation with the map for a network whose parameters are random: (B,), near 0 is good.

    Adebayo et al. 2018, cascading: of the layers, from the logits down, a share of 1/stages, 2/stages, ... 1 is randomised;
    `spearman@share` and `ssim@share` are the curves, and `ssim` its end. `logit`: the correlation with the map for another
    class, drawn for each row. SSIM's window is 11 pixels wide: where it does not fit, `ssim` is NaN.
    how: shuffle, each parameter's values in a random order, which keeps the outputs' scale; or reset, drawn anew as at
    construction (the paper's), with which deep networks' outputs may become constant.
    """
    if stages < 1:
        raise ValueError(f"stages={stages} must be 1 or larger: at the last all layers are random")
    found = {}
    for stage in range(1, stages + 1):
        other = explain(randomised(classifier, stage / stages, how, seed), images, targets, seed)
        found[f"spearman@{stage / stages:g}"] = spearman(saliency, other)
        found[f"ssim@{stage / stages:g}"] = _ssim(saliency, other)
    with torch.no_grad():
        classes = classifier(images[:1]).shape[1]
    step = torch.tensor([1 + key(seed, int(t)) % (classes - 1) for t in targets], device=targets.device)
    logit = spearman(saliency, explain(classifier, images, (targets + step) % classes, seed))
    return {"": found["spearman@1"], "ssim": found["ssim@1"], "logit": logit, **found}


def stability(
    saliency: Tensor,
    classifier,
    images: Tensor,
    targets: Tensor,
    explain,
    seeds: int = 3,
    threshold: float = 0.5,
    seed: int = 1,
) -> dict[str, Tensor]:
    """Mean IoU of the pixels of at least `threshold`, over the pairs of maps made with `seeds` seeds from `seed` on: (B,).

    rank: mean rank correlation of the pairs; agreed: share of the pixels that any seed found which all found. High is good.
    """
    if seeds < 2:
        raise ValueError(f"seeds={seeds} must be 2 or larger, for pairs of maps are compared")
    maps = torch.stack([explain(classifier, images, targets, seed + i) for i in range(seeds)])  # (K,B,1,H,W)
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    agreed = agreement(maps, threshold)
    some, all_ = (agreed > 0).sum((1, 2, 3)), (agreed == 1).sum((1, 2, 3))
    return {
        "": torch.stack([_iou(a >= threshold, b >= threshold) for a, b in pairs]).mean(0),
        "rank": torch.stack([spearman(a, b) for a, b in pairs]).mean(0),
        "agreed": torch.where(some > 0, all_ / some.clamp(min=1), 1.0),
    }


sanity.protocol = {"better": {"": "near 0", "ssim": "lower", "logit": "near 0"}}
stability.protocol = {"better": "higher"}


def agreement(maps: Tensor, threshold: float = 0.5) -> Tensor:
    """The agreement map: (K,B,1,H,W) of K seeds -> (B,1,H,W), the share of them that find the pixel salient."""
    return (maps >= threshold).float().mean(0)


def _iou(a: Tensor, b: Tensor) -> Tensor:  # (B,1,H,W) bool both; of two empty ones 1
    union = (a | b).sum((1, 2, 3))
    return torch.where(union > 0, (a & b).sum((1, 2, 3)) / union.clamp(min=1), 1.0)


def _ssim(a: Tensor, b: Tensor) -> Tensor:  # (B,1,H,W) both -> (B,)
    if min(a.shape[2:]) < 11:
        return a.new_full(a.shape[:1], torch.nan)
    return structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """(B,1,H,W) both -> (B,) in [-1,1], equal values sharing their mean rank; 0 where a map is constant."""
    a, b = (torch.stack([_ranks(row) for row in maps.flatten(1).cpu()]) for maps in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norm = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(norm > 0, (a * b).sum(1) / norm.clamp(min=1e-300), 0.0).float()


def _ranks(values: Tensor) -> Tensor:  # (N,) -> (N,) float64
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]


def randomised(classifier: nn.Module, share: float, how: str = "shuffle", seed: int = 0) -> nn.Module:
    """A copy whose last ceil(share * layers) layers are random: modules with parameters, in the order of construction."""
    if how not in ("shuffle", "reset"):
        raise ValueError(f"how={how!r} must be shuffle or reset")
    other = copy.deepcopy(classifier)
    if isinstance(other, Classifier):
        other.unfold()  # a folded convolution has weights of its own (mpx/models/folding.py)
    layers = [(name, module) for name, module in other.named_modules() if [*module.parameters(recurse=False)]]
    with torch.no_grad(), torch.random.fork_rng():
        for name, module in layers[len(layers) - math.ceil(share * len(layers)) :]:
            torch.manual_seed(key(seed, name))  # a layer is the same at every stage
            if how == "reset" and hasattr(module, "reset_parameters"):
                module.reset_parameters()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other
