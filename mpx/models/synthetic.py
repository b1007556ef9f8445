"""A network whose evidence is known by construction: it counts the cells of each texture of mpx.data.synthetic.

Nothing is trained. A filter of a cell's size answers fully to its texture in step and, by less than THRESHOLD, to all else
in these pictures: the ground, another texture, a cell that is only partly there. So a class's logit depends on the pixels of
its shape alone, and falls with every cell that is perturbed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpx.data.preprocessing import Preprocess
from mpx.data.synthetic import CELL, HIGH, LOW, NAMES, SIDE, textures
from mpx.models.classifier import Classifier

CELLS = 12  # of a shape
FULL = (HIGH - LOW) / 2 / 255  # a filter's answer to its texture
THRESHOLD = FULL / 3
ENLARGED = 0.25  # the same once a shape has been cut out and enlarged to the whole picture, bilinearly


class Textures(nn.Module):
    """(B,3,H,W) in [0,1] -> (B,5): `gain` for a whole shape of each class, else 0, and gain/2 for there being nothing."""

    def __init__(self, gain: float = 8.0):
        super().__init__()
        self.gain = gain
        self.filters = nn.Conv2d(3, len(NAMES), CELL, bias=False)
        weight = torch.tensor(textures().copy(), dtype=torch.float32)
        self.filters.weight.data = weight / weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        found = functional.relu((self.filters(x) - THRESHOLD) / (FULL - THRESHOLD))
        # a shape that fills the picture, as metrics that cut it out show it
        whole = functional.conv2d(functional.adaptive_avg_pool2d(x, SIDE), self.filters.weight)
        found_whole = functional.relu((whole - THRESHOLD) / (ENLARGED - THRESHOLD))
        logits = self.gain / CELLS * (found.sum((2, 3)) + found_whole.sum((2, 3)))
        return torch.cat([logits, torch.full_like(logits[:, :1], self.gain / 2)], 1)


def synthetic(size: int = 128, gain: float = 8.0) -> Classifier:
    """size: of the pictures, as in dataset=synthetic; gain: the logit of a whole shape."""
    return Classifier(Textures(gain), preprocess=Preprocess((size, size)), categories=(*NAMES, "nothing"), name="synthetic")
