"""How much the network says the class: what a deletion minimises and a preservation maximises.

A score maps (logits (B,classes), target (B,)) to (B,). The weights lambda_* are calibrated for `probability`, whose range
is 1; logits and log-odds range over tens, so they want weights some ten times larger.
"""

import torch
from torch import Tensor


def probability(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax probability (Fong & Vedaldi 2017)."""
    return logits.softmax(-1).gather(1, target[:, None])[:, 0]


def log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """log p, which is minus the cross entropy (Schulz et al. 2020), from the logits, so that it stays finite."""
    return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


def logit(logits: Tensor, target: Tensor) -> Tensor:
    """The class's activation before the softmax (Fong, Patrick & Vedaldi 2019)."""
    return logits.gather(1, target[:, None])[:, 0]


def _others(logits: Tensor, target: Tensor) -> Tensor:
    return logits.scatter(1, target[:, None], float("-inf"))


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log p/(1-p) (Chang et al. 2019), from the logits, so that it does not saturate."""
    return logit(logits, target) - torch.logsumexp(_others(logits, target), 1)


def contrastive(logits: Tensor, target: Tensor) -> Tensor:
    """The class's logit minus that of the best other class (Fong, Patrick & Vedaldi 2019)."""
    return logit(logits, target) - _others(logits, target).amax(1)


def hinge(logits: Tensor, target: Tensor, sign: float = 0.0, low: float = -5.0, high: float = 1.0) -> Tensor:
    """`contrastive`, minimised no further than to `low`, maximised no further than to `high` (Dabkowski & Gal 2017's code).

    The margin of Carlini & Wagner 2017: once the class is beaten, or wins, by enough, only the regularizers pull.
    """
    margin = contrastive(logits, target)
    return margin.clamp(min=low) if sign > 0 else margin.clamp(max=high) if sign < 0 else margin


def top(logits: Tensor, target: Tensor, original: Tensor, classes: int = 5) -> Tensor:
    """Probability of all the `classes` that the untouched photo ranks highest (Fong & Vedaldi 2017's code).

    Whatever the target: for what makes the photo recognised at all, as weak localisation wants it.
    """
    if not 1 <= classes < logits.shape[1]:
        raise ValueError(f"score.classes={classes} must be from 1 to {logits.shape[1] - 1}, below the network's classes")
    return logits.softmax(-1).gather(1, original.topk(classes).indices).sum(1)


def distortion(logits: Tensor, target: Tensor, original: Tensor, of: str = "output", softmax: bool = True) -> Tensor:
    """Minus the squared distance from what the network says of the photo (Macdonald et al. 2019), 0 where all is as it was.

    of: "output", all classes, whatever the target; or "class", the target's. softmax: of probabilities; else of logits.
    """
    if of not in ("output", "class"):
        raise ValueError(f"score.of={of!r} must be 'output' or 'class'")
    there, here = ((z.softmax(-1) if softmax else z) for z in (original, logits))
    square = (here - there) ** 2
    return -(square.sum(1) if of == "output" else square.gather(1, target[:, None])[:, 0])
