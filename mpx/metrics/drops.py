"""What the class's score loses without the evidence, and what it keeps with the evidence alone."""

import torch
from torch import Tensor

from mpx.metrics.batched import ask_stack, filled

LEAST = 0.01  # of the probability that perturbing all of the photo must cost, for a share of it to say anything


def normalised_drop(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, perturbations: dict, mask: Tensor | None = None,
    game: str = "deletion", judged: Tensor | None = None, least: float = LEAST, pictures: int = 64,
) -> Tensor:  # fmt: skip
    """Share of the drop that perturbing everything causes which perturbing the evidence causes: (B,), 1 is all of it.

    1 - p', p' = (p - p_b) / (p_0 - p_b) of Fong & Vedaldi 2017, footnote 4, under the perturbation that the mask was learnt
    with: p_0 of the photo, p_b of the perturbed one. The evidence is perturbed by the mask of a deletion, else by
    1 - saliency. NaN where p_0 - p_b is below `least`, for there is nothing to lose.
    """
    if judged is not None and game != "preservation":
        return 1 - normalised(judged[1], judged[0], judged[2], least)
    keeps = 1 - saliency if mask is None or game == "preservation" else mask
    name, perturb = next(iter(perturbations.items()))
    return 1 - scores(classifier, images, targets, keeps, {name: perturb}, least, pictures)[name]


def crossed(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, perturbations: dict, mask: Tensor | None = None,
    game: str = "deletion", judged: Tensor | None = None, works: float = 0.9, fails: float = 0.5, least: float = LEAST,
    pictures: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """How well a mask does what it was learnt for, by perturbation and, as main value, under all but its own: (B,) each.

    Under a perturbation a deletion does 1 - p', a preservation p' (`normalised_drop`). `only_own` is 1 for a mask that does
    at least `works` under its own perturbation and less than `fails` under every other one: it shows the perturbation's
    traces rather than evidence.
    """
    kept = scores(classifier, images, targets, _mask(saliency, mask, game), perturbations, least, pictures)
    if judged is not None:  # under the own one as the search has it, which need not be a blend of two pictures
        kept[next(iter(kept))] = normalised(judged[1], judged[0], judged[2], least)
    done = {name: p if game == "preservation" else 1 - p for name, p in kept.items()}
    own, *others = done.values()
    if not others:
        return {"": torch.full_like(own, torch.nan), **done, "only_own": torch.full_like(own, torch.nan)}
    others = torch.stack(others)
    known = own.isfinite() & others.isfinite().any(0)
    only = (own >= works) & ~(others >= fails).any(0)
    return {"": others.nanmean(0), **done, "only_own": torch.where(known, only.to(own), torch.nan)}


def average_drop(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, fill: str | float = "mean", pictures: int = 64
) -> dict[str, Tensor]:
    """What is lost where each pixel keeps as much of its colour as it is salient: max(0, y - y_m) / y, low is good.

    increase: whether y_m > y; gain: max(0, y_m - y) / (1 - y). Chattopadhay et al. 2018; Zhang et al. 2024 for the gain.
    """
    blank = filled(images, classifier, fill)
    y, kept = ask_stack(classifier, torch.stack([images, torch.lerp(blank, images, saliency)], 1), targets, pictures).T
    tiny = torch.finfo(y.dtype).tiny
    return {
        "": (y - kept).clamp(min=0) / y.clamp(min=tiny),
        "increase": (kept > y).to(y),
        "gain": (kept - y).clamp(min=0) / (1 - y).clamp(min=tiny),
    }


ROW = {"class": "the row's, softmax"}
normalised_drop.protocol = {
    **ROW,
    "normalisation": "(p_0 - p) / (p_0 - p_b)",
    "operator": "the mask's own",
    "better": "higher",
}
crossed.protocol = {
    **ROW,
    "normalisation": "as normalised_drop; a preservation: 1 minus it",
    "better": {"": "higher", "only_own": "lower"},
}
average_drop.protocol = {**ROW, "better": {"": "lower", "increase": "higher", "gain": "higher"}}


def _mask(saliency: Tensor, mask: Tensor | None, game: str) -> Tensor:
    return mask if mask is not None else saliency if game == "preservation" else 1 - saliency


def scores(
    classifier, images: Tensor, targets: Tensor, mask: Tensor, perturbations: dict, least: float, pictures: int
) -> dict[str, Tensor]:
    """p' of the pictures under a mask (B,1,H,W), by perturbation: name -> (B,)."""
    shown = [images]
    for perturb in perturbations.values():
        blank = perturb(images)
        shown += [blank, torch.lerp(blank, images, mask)]
    p = ask_stack(classifier, torch.stack(shown, 1), targets, pictures)
    return {name: normalised(p[:, 2 * i + 2], p[:, 0], p[:, 2 * i + 1], least) for i, name in enumerate(perturbations)}


def normalised(p: Tensor, p_0: Tensor, p_b: Tensor, least: float = LEAST) -> Tensor:
    """(p - p_b) / (p_0 - p_b); NaN where perturbing everything costs less than `least`."""
    span = p_0 - p_b
    return torch.where(span >= least, (p - p_b) / span, torch.nan)
