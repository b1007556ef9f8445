"""A synthetic Explanation: a disc of evidence grows over a random image."""

import torch

from mpx.explanation import Explanation
from mpx.tasks.classification import CLASSIFICATION

NAMES = ("cup-1-mug", "cat-2-tabby")


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
    curves = {k: torch.rand(steps, B, generator=draw) for k in ("total", "score", "l1", "tv", "probability", "area")}
    return Explanation(
        names=list(names),
        image_names=[n.split("-")[0] for n in names],
        classes=list(classes),
        targets=torch.arange(B) + 1,
        areas=torch.full((B,), torch.nan),
        game=game,
        images=photos,
        perturbed=photos * masks[-1],
        complement=photos * (1 - masks[-1]),
        parameter=masks[-1][..., ::8, ::8],
        mask=masks[-1],
        saliency=disc,
        p_before=torch.full((B,), 0.9),
        p_after=torch.full((B,), 0.2),
        p_reference=torch.full((B,), 0.1),
        p_normalised=torch.full((B,), 0.125),
        task=CLASSIFICATION,
        curves=curves,
        iterations=iterations,
        frames=(photos * masks * 255).byte(),
        frame_saliency=(growth * disc * 255).byte(),
        frame_p=torch.rand(frames, B, generator=draw),
        frame_parameters=masks[..., ::8, ::8],
        steps=torch.full((B,), steps),
        seconds=torch.full((B,), 3.0 / B),
        passes=torch.full((B,), 30.0),
        forwards=torch.zeros(B),
        batch_size=B,
        started=torch.full((B,), 1.7e9, dtype=torch.float64),
        duration=torch.full((B,), 3.0),
    )
