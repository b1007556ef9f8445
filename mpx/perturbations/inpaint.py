"""Classical in-painting by scikit-image's biharmonic equation."""

import torch
from torch import Tensor

from mpx.perturbations.base import PerturbationContext


def inpaint(images: Tensor, context: PerturbationContext, tile: int | None = None) -> Tensor:
    """Each square of `tile` pixels as the biharmonic equation predicts it from its surroundings.

    tile: px; None for an eighth of the shorter side.

    In each of four passes every second square of every second row is unknown, so that an unknown square has known
    neighbours. The result does not depend on the mask, because it is prepared once per batch.
    """
    from skimage.restoration import inpaint_biharmonic

    side = min(images.shape[-2:])
    tile = max(1, side // 8) if tile is None else tile
    if not 1 <= tile < side / 2:
        raise ValueError(f"tile={tile} must be at least 1 and below half the image's side ({side} px)")
    rows, columns = (torch.arange(n) // tile % 2 for n in images.shape[-2:])
    painted = images.detach().cpu().clone()
    for image, result in zip(painted.clone(), painted):
        for unknown in [(rows == i)[:, None] & (columns == j) for i in (0, 1) for j in (0, 1)]:
            prediction = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), unknown.numpy(), channel_axis=-1)
            result[:, unknown] = torch.from_numpy(prediction).to(result.dtype).permute(2, 0, 1)[:, unknown]
    return painted.clamp(0, 1).to(images.device)
