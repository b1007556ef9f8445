"""Networks whose evidence is known by construction: they count the cells of each texture of mpx.data.synthetic.

Nothing is trained. A filter of a cell's size responds fully to its aligned texture, and below THRESHOLD to everything else
in these images: the ground, another texture, a cell that is only partly there. So a class's output depends on the pixels of
its shape alone, and falls with every cell that is perturbed. Each task has a network with these filters.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpx.data.images import RGB
from mpx.data.preprocessing import Preprocess
from mpx.data.synthetic import CELL, CELLS, HIGH, LOW, NAMES, SIDE, textures
from mpx.models.classifier import Classifier
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

COMPLETE = 12  # cells of a shape
FULL = (HIGH - LOW) / 2 / 255  # response of a filter to its texture
THRESHOLD = 0.4 * FULL
ENLARGED_FULL = 0.25  # response once a shape was cut out and enlarged to the whole image, bilinearly
NOTHING = "nothing"
SHARED = 3.3  # length of the direction that all embeddings have in common, in units of a complete shape


class Textures(nn.Module):
    """The filters, from images (B,C,H,W) in [0,1]. gain: logit of a complete shape."""

    categories: tuple[str, ...] = NAMES

    def __init__(self, gain: float, channels: int):
        super().__init__()
        self.gain = gain
        weight = torch.tensor(textures(channels).copy(), dtype=torch.float32)
        self.filters = nn.utils.skip_init(nn.Conv2d, channels, len(NAMES), CELL, bias=False)  # draws no random numbers
        self.filters.weight.data = weight / weight[0].numel()

    def corners(self, x: Tensor) -> Tensor:
        """Return (B,4,H-7,W-7): how much of a class's cell has its first pixel here, 1 for all of it."""
        return functional.relu((self.filters(x) - THRESHOLD) / (FULL - THRESHOLD))

    def pixels(self, x: Tensor) -> Tensor:
        """Return (B,4,H,W): how much of a class's cell covers a pixel."""
        corners = functional.pad(self.corners(x), [CELL - 1] * 4)
        return functional.max_pool2d(functional.max_pool2d(corners, (CELL, 1), 1), (1, CELL), 1)

    def shapes(self, x: Tensor) -> Tensor:
        """Return (B,4): how much of a shape there is of each class, 1 for a complete one."""
        # a shape that fills the image, as metrics show it that cut it out
        enlarged = functional.conv2d(functional.adaptive_avg_pool2d(x, SIDE), self.filters.weight)
        enlarged_cells = functional.relu((enlarged - THRESHOLD) / (ENLARGED_FULL - THRESHOLD))
        return (self.corners(x).sum((2, 3)) + enlarged_cells.sum((2, 3))) / COMPLETE


class Classes(Textures):
    """Logits (B,5) of exclusive classes: `gain` for a complete shape, else 0; gain/2 for "nothing"."""

    categories = (*NAMES, NOTHING)

    def forward(self, x: Tensor) -> Tensor:
        return _with_nothing(self.gain * self.shapes(x), self.gain / 2)


class Labels(Textures):
    """Logits (B,4) of labels that may hold together: 0.75 gain for a complete shape, -gain/4 for none."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (self.shapes(x) - 0.25)


class Count(Textures):
    """The number (B,1) of cells, whatever their class."""

    categories = (CELLS,)

    def forward(self, x: Tensor) -> Tensor:
        return COMPLETE * self.shapes(x).sum(1, keepdim=True)


class Segments(Textures):
    """Logits (B,5,H,W) of each pixel: `gain` for the class whose cell covers it, else 0; gain/2 for "nothing"."""

    categories = (*NAMES, NOTHING)

    def forward(self, x: Tensor) -> Tensor:
        return _with_nothing(self.gain * self.pixels(x), self.gain / 2)


class Boxes(Textures):
    """torchvision's list of dicts: for each class the box around its cells and the sigmoid of its label's logit."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        scores = (self.gain * (self.corners(x).sum((2, 3)) / COMPLETE - 0.25)).sigmoid()
        covered = self.pixels(x) > 0
        sides = [_extent(covered.any(dim)) for dim in (2, 3)]  # of x and y, (B,4,2)
        boxes = torch.stack(sides, -1).flatten(2).to(x)
        return [{"boxes": b, "labels": torch.arange(len(b), device=x.device), "scores": s} for b, s in zip(boxes, scores)]


class Embedding(NamedTuple):
    """The embeddings (B,6) of images."""

    image_embeds: Tensor


class ImageTower(Textures):
    """Embeddings (B,6) of images, the first of two towers: how much there is of each class, half of "nothing", and `SHARED`.

    As in CLIP, all embeddings have a direction in common, so that cosine similarities differ by about 0.1.
    """

    def forward(self, x: Tensor) -> Embedding:
        return Embedding(_with_shared(_with_nothing(self.shapes(x), 0.5)))


def embed_texts(texts: list[str]) -> Tensor:
    """Return the embeddings (N,6) of texts, the second tower: 1 for each class that a text names, or for "nothing"."""
    named = [[float(name in text.lower().split()) for name in NAMES] for text in texts]
    return _with_shared(torch.tensor([[*row, float(not any(row))] for row in named]))


NETWORKS: dict[type[Task], type[Textures]] = {  # all other tasks explain the classifier
    Multilabel: Labels,
    Regression: Count,
    Segmentation: Segments,
    Detection: Boxes,
    Similarity: ImageTower,
}


class Synthetic(Classifier):
    """The networks for dataset=synthetic, of which the task chooses one.

    size: of the images, in pixels; channels: of the images, 1, 3 or 6; gain: logit of a complete shape.
    """

    def __init__(self, size: int = 128, gain: float = 8.0, channels: int = RGB, task: Task = CLASSIFICATION):
        kind = network_of(task)
        super().__init__(
            kind(gain, channels), preprocess=Preprocess((size, size)), categories=kind.categories, name="synthetic",
            task=task, channels=channels, embed_texts=embed_texts,
        )  # fmt: skip
        self.task = self.task.for_model(self)
        self.options = (size, gain, channels)

    def with_task(self, task: Task) -> "Synthetic":
        """Return the network of another task."""
        twin = Synthetic(*self.options, task).to(self.device)
        twin.bands = self.bands
        return twin


def network_of(task: Task) -> type[Textures]:
    """Return the class of a task's network."""
    if isinstance(task, Regression) and task.function is not None:
        return Classes  # whose output the user's function reads
    return next((network for base, network in NETWORKS.items() if isinstance(task, base)), Classes)


def _with_nothing(classes: Tensor, nothing: float) -> Tensor:
    """Append a constant for "nothing" to (B,4,...)."""
    return torch.cat([classes, torch.full_like(classes[:, :1], nothing)], 1)


def _with_shared(vectors: Tensor) -> Tensor:
    """Append the direction that all embeddings have in common to (B,5)."""
    return torch.cat([vectors, torch.full_like(vectors[:, :1], SHARED)], 1)


def _extent(covered: Tensor) -> Tensor:
    """Return the first and one beyond the last (...,2) of the positions (...,L) that are covered; 0 and 0 if none is."""
    positions = torch.arange(covered.shape[-1], device=covered.device)
    last = ((positions + 1) * covered).amax(-1)
    first = torch.where(covered, positions, covered.shape[-1]).amin(-1).minimum(last)
    return torch.stack([first, last], -1)
