"""How much the network says the class: what a deletion minimises and a preservation maximises.

A score maps (logits (B,classes), target (B,)) to (B,). The weights lambda_* are calibrated for `probability`, whose range
is 1; logits and log-odds range over tens, so they want weights some ten times larger.
"""

import torch
from torch import Tensor


def probability(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax probability (Fong & Vedaldi 2017)."""
    return logits.softmax(-1).gather(1, target[:, None])[:, 0]


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
    """`contrastive`, but minimised no further than to `low`, and maximised no further than to `high` (Dabkowski & Gal 2017's code).

    The margin of Carlini & Wagner 2017: once the class is beaten, or wins, by enough, only the regularizers pull.
    """
    margin = contrastive(logits, target)
    return margin.clamp(min=low) if sign > 0 else margin.clamp(max=high) if sign < 0 else margin
