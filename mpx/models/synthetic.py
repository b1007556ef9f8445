"""A network whose evidence is known by construction: it counts the cells of each texture of mpx.data.synthetic.

Nothing is trained. A filter of a cell's size responds fully to its aligned texture, and below THRESHOLD to everything else
in these images: the ground, another texture, a cell that is only partly there. So the logit of a class depends on the pixels
of its shape alone, and falls with every cell that is perturbed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpx.data.preprocessing import Preprocess
from mpx.data.synthetic import CELL, HIGH, LOW, NAMES, SIDE, textures
from mpx.models.classifier import Classifier

CELLS = 12  # of a shape
FULL = (HIGH - LOW) / 2 / 255  # response of a filter to its texture
THRESHOLD = FULL / 3
ENLARGED_FULL = 0.25  # response once a shape was cut out and enlarged to the whole image, bilinearly


class Textures(nn.Module):
    """Map (B,3,H,W) in [0,1] to logits (B,5): `gain` for a complete shape of each class, else 0; gain/2 for "nothing"."""

    def __init__(self, gain: float = 8.0):
        super().__init__()
        self.gain = gain
        self.filters = nn.Conv2d(3, len(NAMES), CELL, bias=False)
        weight = torch.tensor(textures().copy(), dtype=torch.float32)
        self.filters.weight.data = weight / weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        cells = functional.relu((self.filters(x) - THRESHOLD) / (FULL - THRESHOLD))
        # a shape that fills the image, as metrics show it that cut it out
        enlarged = functional.conv2d(functional.adaptive_avg_pool2d(x, SIDE), self.filters.weight)
        enlarged_cells = functional.relu((enlarged - THRESHOLD) / (ENLARGED_FULL - THRESHOLD))
        logits = self.gain / CELLS * (cells.sum((2, 3)) + enlarged_cells.sum((2, 3)))
        return torch.cat([logits, torch.full_like(logits[:, :1], self.gain / 2)], 1)


def synthetic(size: int = 128, gain: float = 8.0) -> Classifier:
    """Return the network for dataset=synthetic. size: of its images, in pixels; gain: logit of a complete shape."""
    return Classifier(Textures(gain), preprocess=Preprocess((size, size)), categories=(*NAMES, "nothing"), name="synthetic")
