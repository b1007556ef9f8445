"""A synthetic Explanation: a disc of evidence grows over a random image."""

import torch

from mpx.explanation import Explanation
from mpx.tasks.base import Answer
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.normalised import normalise

NAMES = ("cup-1-mug", "cat-2-tabby")


def set_values(e: Explanation, after: float | list, reference: float | list = 0.1) -> None:
    """Set the values on the perturbed and on the fully perturbed images."""
    e.value_after, e.value_reference = (torch.tensor(x).expand(len(e)).clone() for x in (after, reference))
    e.value_normalised = normalise(e.value_after, e.value_before, e.value_reference)


def make_explanation(
    size=(40, 56), game="deletion", names=NAMES, classes=("mug", "tabby cat"), steps=30, frames=6
) -> Explanation:
    B, (H, W), draw = len(names), size, torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    disc = (1.2 - 2 * (x**2 + y**2).sqrt()).clamp(0, 1).expand(B, 1, H, W)
    iterations = torch.linspace(0, steps, frames).long().tolist()
    growth = torch.tensor(iterations).view(-1, 1, 1, 1, 1) / steps
    photos = torch.rand(B, 3, H, W, generator=draw)
    masks = 1 - growth * disc
    curves = {k: torch.rand(steps, B, generator=draw) for k in ("total", "score", "l1", "tv", "value", "area")}
    return Explanation(
        names=list(names),
        image_names=[n.split("-")[0] for n in names],
        classes=list(classes),
        targets=torch.arange(B) + 1,
        areas=torch.full((B,), torch.nan),
        game=game,
        images=photos,
        perturbed=photos * masks[-1],
        region=None,
        complement=photos * (1 - masks[-1]),
        parameter=masks[-1][..., ::8, ::8],
        mask=masks[-1],
        saliency=disc,
        value_before=torch.full((B,), 0.9),
        value_after=torch.full((B,), 0.2),
        value_complement=torch.full((B,), 0.7),
        value_reference=torch.full((B,), 0.1),
        value_normalised=torch.full((B,), 0.125),
        answers_before=[[Answer(name, 0.9, True), Answer("bowl", 0.06, False)] for name in classes],
        answers_after=[[Answer("bowl", 0.7, False), Answer(name, 0.2, True)] for name in classes],
        answers_complement=[[Answer(name, 0.7, True), Answer("bowl", 0.2, False)] for name in classes],
        task=CLASSIFICATION,
        curves=curves,
        iterations=iterations,
        frames=(photos * masks * 255).byte(),
        frame_evidence=(growth * disc * 255).byte(),
        frame_values=torch.rand(frames, B, generator=draw),
        frame_parameters=masks[..., ::8, ::8],
        steps=torch.full((B,), steps),
        seconds=torch.full((B,), 3.0 / B),
        passes=torch.full((B,), 30.0),
        forwards=torch.zeros(B),
        batch_size=B,
        started=torch.full((B,), 1.7e9, dtype=torch.float64),
        duration=torch.full((B,), 3.0),
    )
