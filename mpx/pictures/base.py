"""The fields of an explanation that pictures are drawn from (mpx.explanation.Explanation has them)."""

from typing import Protocol

from torch import Tensor

from mpx.tasks.base import Answer, Task


class PicturedExplanation(Protocol):
    """B rows (an image and a target each) with F recorded iterations; pictures and saliency are floats in [0,1]."""

    image_names: list[str]
    classes: list[str]  # of the targets, readable
    game: str
    images: Tensor  # (B,C,H,W)
    perturbed: Tensor  # (B,C,H,W) the image under the final mask
    region: Tensor | None  # (B,1,H,W) of True where the target is, which pictures outline
    complement: Tensor | None  # (B,C,H,W) the image under 1-mask; None where the mask acts inside the network
    saliency: Tensor  # (B,1,H,W)
    task: Task
    value_before: Tensor  # (B,) the task's value of the target on the image,
    value_after: Tensor  # (B,) on `perturbed`,
    value_complement: Tensor  # (B,) on `complement`; NaN without one,
    value_reference: Tensor  # (B,) and on the fully perturbed image
    answers_before: list[list[Answer]]  # the highest values of each row on the image and on `perturbed`; may be empty
    answers_after: list[list[Answer]]
    answers_complement: list[list[Answer]]
    iterations: list[int]  # F, the first is 0
    frames: Tensor  # (F,B,C,H,W) uint8, the perturbed image
    frame_evidence: Tensor  # (F,B,1,H,W) uint8
    frame_values: Tensor  # (F,B) the value
    verdict: list[str]  # on each row; empty: they are not judged
    bands: tuple[int, ...] | None  # channels that are shown as red, green and blue

    @property
    def area(self) -> Tensor: ...  # (B,) share of the image that is the mask's evidence

    @property
    def is_learnt(self) -> bool: ...  # whether the mask was learnt; False: it is an explainer's saliency


def evidence_state(explanation: PicturedExplanation) -> str:
    """Return whether the evidence is "kept" or "deleted" in `explanation.perturbed`."""
    return "kept" if explanation.game == "preservation" else "deleted"
