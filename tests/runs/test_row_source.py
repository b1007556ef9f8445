"""The first photos of a run: on one of them the model is folded and checked."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mpx.data.items import Item
from mpx.data.preprocessing import Preprocess
from mpx.models import Classifier
from mpx.runs.base import ClaimedImage
from mpx.runs.row_source import RowSource


class Network(nn.Module):
    """NaN for a black photo; a part of the output has no gradient where it is used a second time."""

    def __init__(self, second_use):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head, self.second_use = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5), second_use
        self.norm.running_mean.fill_(1.0)

    def forward(self, x):
        made = self.conv(x)
        y = self.norm(made).sigmoid().mean((2, 3)) + made.detach().mean((2, 3)) * self.second_use
        return self.head(y) + 0 / x.sum((1, 2, 3))[:, None]


class Run:
    """A coordinator of a few photos."""

    def __init__(self, folder, greys):
        self.waiting, self.skipped, self.warnings = [], [], []
        for index, grey in enumerate(greys):
            Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(path := folder / f"{index}.png")
            self.waiting.append(ClaimedImage(index, Item(path, name=path.name), set()))

    def claim(self, count):
        claimed, self.waiting = self.waiting[:count], self.waiting[count:]
        return claimed

    def skip(self, name, reason):
        self.skipped.append(reason)

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize("second_use", [False, True])
def test_folded_on_the_first_photo_that_can_be_explained(tmp_path, second_use):
    run = Run(tmp_path, [0, 200, 100])
    classifier = Classifier(Network(second_use).eval(), preprocess=Preprocess((32, 32), 32), name="net")
    with classifier.frozen():
        rows = RowSource(run, classifier, "top1", (None,))(2)
        assert len(rows) == 2 and [len(run.skipped), "NaN" in run.skipped[0]] == [1, True]
        assert bool(classifier.folded) != second_use
        assert len(run.warnings) == second_use and all("net are not folded" in text for text in run.warnings)
    assert not any("forward" in vars(module) for module in classifier.modules())
