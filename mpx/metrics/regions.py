"""Annotated regions in the pixels of the network's image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpx.data.annotations import Annotation


def region_masks(annotations: Sequence[Annotation | None], saliency: Tensor) -> Tensor:
    """Return the regions (B,1,H,W) bool, by pixel centres; empty where a row has none."""
    masks = torch.zeros(saliency.shape, dtype=torch.bool)
    for row, annotation in zip(masks, annotations):
        if annotation is not None:
            mask = annotation.mask()
            if mask.shape != row.shape[1:]:
                raise ValueError(
                    f"a region of {tuple(mask.shape)} pixels does not fit a saliency of {tuple(row.shape[1:])}: "
                    "give the annotation the preprocessing that the saliency was made with"
                )
            row[0] = mask
    return masks.to(saliency.device)
