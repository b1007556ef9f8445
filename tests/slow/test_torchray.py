"""extremal2019 beside the authors' code on a real photo, where torchray is installed (it is not needed otherwise).

What differs, measured by the correlation of the masks after 50 iterations on the espresso: with torchray's mask generator
and blur plugged in as operators of mpx, 0.9997. What remains is how equal values are sorted: torchray's order of them is
chance, here they share. With mpx's own blur and mask 0.96: torchray's blurs darken the edges, its cells lie at 0, 7, ...,
217 px instead of evenly, and its area is that of a frame around the image too, so 0.1 of it is 0.135 of the image. The
search has many optima: by 800 iterations these differences lead to other ones (correlation near 0, both on the cup).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mpx import config, explain
from mpx.data.datasets import sample
from mpx.data.images import read_image
from mpx.masks.base import Mask
from mpx.models.zoo import efficientnet_lite0

ep = pytest.importorskip("torchray.attribution.extremal_perturbation")


class Theirs(Mask):
    """torchray's mask generator as a mask."""

    shape = (1, 32, 32)

    def __init__(self, context):
        super().__init__()
        self.generator = ep.MaskGenerator(context.size, 7, 21)
        self.side = context.size[0]

    def initial(self, rng):
        return torch.ones(rng.batch_size, *self.shape)

    def padded(self, parameter):
        return self.generator.generate(parameter)[1]

    def crop(self, padded):
        return padded[..., 21 : 21 + self.side, 21 : 21 + self.side]

    def inside(self, padded):
        return np.prod(self.generator.shape_out)  # its area is that of the frame too

    def forward(self, parameter):
        return self.crop(self.padded(parameter))


def blurs(x, context):
    """torchray's pyramid, blurred in normalised units, without the photo at its end."""
    classifier = context.classifier
    levels = [
        ep.Perturbation(one, num_levels=8, type="blur").pyramid for one in (x * classifier.scale + classifier.shift)[:, None]
    ]
    return torch.stack([(level - classifier.shift) / classifier.scale for level in levels])[:, :-1]


STEPS = 50


@pytest.fixture(scope="module")
def theirs():
    """The classifier, the photo and torchray's mask."""
    classifier = efficientnet_lite0()
    photo = classifier.preprocess(read_image(sample()[1].path))[None]
    with classifier.frozen():
        normalised = photo * classifier.scale + classifier.shift
        mask, _ = ep.extremal_perturbation(classifier.network, normalised, 967, areas=[0.1], max_iter=STEPS)
    return classifier, photo, mask.detach()


@pytest.mark.parametrize("parts, least", [("theirs", 0.98), ("ours", 0.9)])
def test_masks_agree_at_equal_iterations(theirs, parts, least):
    classifier, photo, expected = theirs
    seen = 0.1 * (260 / 224) ** 2
    chosen = config.method("extremal2019", f"steps={STEPS}", "regularizers.area.correction=0.0", f"area={seen}")
    if parts == "theirs":
        chosen = replace(chosen, mask=Theirs, perturbation=blurs, areas=(0.1,))
    ours = explain(classifier, photo, 967, method=chosen, frames=2).saliency
    assert np.corrcoef(ours.flatten(), expected.flatten())[0, 1] > least
