"""Scores: how strongly the network's output supports the target. A deletion minimises it, a preservation maximises it.

A score is a function `(logits (B,K), targets (B,), context: ScoreContext, **options) -> (B,)`. The task turns the network's
output into the logits of exclusive answers, of which the target is one (mpx.tasks). The weights lambda_* are calibrated for
`probability`, whose range is 1. Logits and log-odds range over tens: their weights are some ten times larger.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mpx.tasks import base as tasks


@dataclass(frozen=True)
class ScoreContext:
    """What a score may use besides the logits and targets of its B rows."""

    original_logits: Tensor  # (B,K) of the unperturbed images
    sign: float = 1.0  # 1 where the score is minimised, -1 where it is maximised


def probability(logits: Tensor, targets: Tensor, context: ScoreContext) -> Tensor:
    """Softmax probability (Fong & Vedaldi 2017).

    Of a task with a single answer its support, minimised no further than to 0, the fully perturbed image's, and maximised
    no further than to 1, the image's.
    """
    if logits.shape[1] > 1:
        return tasks.probability(logits, targets)
    return logits[:, 0].clamp(min=0) if context.sign > 0 else logits[:, 0].clamp(max=1)


def steep_probability(logits: Tensor, targets: Tensor, context: ScoreContext, knee: float = 0.95) -> Tensor:
    """`probability`; where it is minimised and above `knee`, its tangent there as a function of the log-odds.

    The derivative of p by the log-odds is p(1-p). On an image of which the network is sure it is weaker than the weakest
    regularizer, and the mask stays empty. Above the knee, it stays knee (1 - knee).
    """
    if not 0.5 <= knee < 1:
        raise ValueError(f"score.knee={knee} must be at least 0.5 and below 1")
    p = probability(logits, targets, context)
    if context.sign < 0 or logits.shape[1] == 1:
        return p
    tangent = knee + knee * (1 - knee) * (log_odds(logits, targets, context) - math.log(knee / (1 - knee)))
    return torch.where(p > knee, tangent, p)


def log_probability(logits: Tensor, targets: Tensor, context: ScoreContext) -> Tensor:
    """log p, minus the cross entropy (Schulz et al. 2020); computed from the logits, so that it stays finite."""
    _refuse_single_answer(logits, "log_probability")
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def logit(logits: Tensor, targets: Tensor, context: ScoreContext) -> Tensor:
    """The target's activation before the softmax (Fong, Patrick & Vedaldi 2019)."""
    return logits.gather(1, targets[:, None])[:, 0]


def log_odds(logits: Tensor, targets: Tensor, context: ScoreContext) -> Tensor:
    """log p/(1-p) (Chang et al. 2019); computed from the logits, so that it does not saturate."""
    _refuse_single_answer(logits, "log_odds")
    return logit(logits, targets, context) - _without_target(logits, targets).logsumexp(1)


def contrastive(logits: Tensor, targets: Tensor, context: ScoreContext) -> Tensor:
    """The target's logit minus that of the best other class (Fong, Patrick & Vedaldi 2019)."""
    _refuse_single_answer(logits, "contrastive")
    return logit(logits, targets, context) - _without_target(logits, targets).amax(1)


def hinge(logits: Tensor, targets: Tensor, context: ScoreContext, low: float = -5.0, high: float = 1.0) -> Tensor:
    """`contrastive`, minimised no further than to `low`, maximised no further than to `high` (Dabkowski & Gal 2017's code).

    The margin of Carlini & Wagner 2017: beyond it only the regularizers have a gradient.
    """
    margin = contrastive(logits, targets, context)
    return margin.clamp(min=low) if context.sign > 0 else margin.clamp(max=high)


def top(logits: Tensor, targets: Tensor, context: ScoreContext, classes: int = 5) -> Tensor:
    """Probability of the `classes` classes that rank highest for the unperturbed image (Fong & Vedaldi 2017's code).

    It ignores the target: the evidence of anything in the image, for weak localisation.
    """
    _refuse_single_answer(logits, "top")
    if not 1 <= classes < logits.shape[1]:
        raise ValueError(f"score.classes={classes} must be from 1 to {logits.shape[1] - 1}, below the network's classes")
    return logits.softmax(-1).gather(1, context.original_logits.topk(classes).indices).sum(1)


def distortion(
    logits: Tensor,
    targets: Tensor,
    context: ScoreContext,
    outputs: str = "all",
    softmax: bool = True,
    from_certainty: bool = False,
) -> Tensor:
    """Minus the squared distance from the output for the unperturbed image, so 0 at most (Macdonald et al. 2019).

    outputs: "all" for all classes, or "target". softmax: compare probabilities; otherwise logits. from_certainty: the
    distance from a probability of 1 for the target, instead of the unperturbed image's (Kolek et al. 2023).
    """
    if outputs not in ("all", "target"):
        raise ValueError(f"score.outputs={outputs!r} must be 'all' or 'target'")
    if from_certainty and not softmax:
        raise ValueError("score.from_certainty=true compares probabilities: set score.softmax=true")
    original, current = (z.softmax(-1) if softmax else z for z in (context.original_logits, logits))
    if from_certainty:
        original = torch.zeros_like(current).scatter(1, targets[:, None], 1)
    square = (current - original) ** 2
    return -(square.sum(1) if outputs == "all" else square.gather(1, targets[:, None])[:, 0])


def _refuse_single_answer(logits: Tensor, score: str) -> None:
    if logits.shape[1] < 2:
        raise ValueError(
            f"score={score} compares the target with other answers, and this task has one number: set score=probability or "
            "score=logit"
        )


def _without_target(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.scatter(1, targets[:, None], float("-inf"))
