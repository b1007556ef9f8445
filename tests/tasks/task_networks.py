"""A network of each task, and photos of dataset=synthetic in which the shape of amber, or every cell, is its evidence."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from mpx.data.annotations import Annotation, Region
from mpx.data.preprocessing import Preprocess
from mpx.data.synthetic import NAMES, choose_shapes, draw, paint
from mpx.models.classifier import Classifier
from mpx.models.synthetic import Boxes, Classes, Labels, Segments, Synthetic, embed_texts
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.difference import Difference
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

SIDE, GAIN = 96, 8.0
NUMBERS = (0, 24)  # of the photos: the larger shape is of amber in both, and the first has another one
AMBER = 0


class Binary(Labels):
    """A single logit (B,1): is there amber?"""

    categories = ("no amber", "amber")

    def forward(self, x):
        return super().forward(x)[:, :1]


class SegmentDict(Segments):
    """torchvision's dict of a segmenter."""

    def forward(self, x):
        return {"out": super().forward(x)}


class Queries(Boxes):
    """DETR's logits (B,Q,K+1), the last of no object, and boxes (B,Q,4), of the same objects."""

    def forward(self, x):
        detections = super().forward(x)
        scores = torch.stack([d["scores"] for d in detections])
        logits = torch.cat([scores.logit().diag_embed() - 50 * (1 - torch.eye(4)), torch.zeros(len(x), 4, 1)], 2)
        boxes = torch.stack([d["boxes"] for d in detections]) / SIDE
        return logits, box_convert(boxes, "xyxy", "cxcywh")


def alone(kind, task: Task) -> Classifier:
    """A network of these that is no synthetic() one."""
    return Classifier(kind(GAIN, 3), task=task, categories=kind.categories)


def photos(channels: int = 3) -> Tensor:
    """(2,C,H,W) in [0,1]."""
    images = [paint(choose_shapes(n, SIDE, 0), n, SIDE, 0, channels) for n in NUMBERS]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1) / 255


def regions(every: bool = False) -> list[Annotation]:
    """Where amber is in the photos, or every cell."""
    chosen = [choose_shapes(n, SIDE, 0)[: None if every else 1] for n in NUMBERS]
    cells = [sum((cells for _, cells in shapes), ()) for shapes in chosen]
    return [Annotation(Region(draw=lambda c=c: draw(c, SIDE)), (SIDE, SIDE), Preprocess((SIDE, SIDE))) for c in cells]


@dataclass
class Explained:
    """A network, its photos (2,C,H,W), the target, and where its evidence is."""

    classifier: Classifier
    target: Any = "amber"
    channels: int = 3
    every: bool = False  # whether every cell is evidence

    @property
    def photos(self) -> Tensor:
        return photos(self.channels)

    @property
    def annotations(self) -> list[Annotation]:
        return regions(self.every)

    @property
    def evidence(self) -> Tensor:
        """(2,1,H,W) of True and False."""
        return torch.stack([annotation.mask()[None] for annotation in self.annotations])


def synthetic(task: Task = CLASSIFICATION, **options) -> Classifier:
    return Synthetic(SIDE, GAIN, task=task, **options)


TASKS = {
    "classification": Explained(synthetic()),
    "grey": Explained(synthetic(channels=1), channels=1),
    "six_channels": Explained(synthetic(channels=6), channels=6),
    "multilabel": Explained(synthetic(Multilabel())),
    "binary": Explained(alone(Binary, Multilabel())),
    "regression": Explained(synthetic(Regression("up")), None, every=True),
    "regression_stay": Explained(synthetic(Regression("stay")), None, every=True),
    "segmentation": Explained(synthetic(Segmentation(background=4)), "top1"),
    "segmentation_dict": Explained(alone(SegmentDict, Segmentation())),
    "detection": Explained(synthetic(Detection()), "top1"),
    "detection_queries": Explained(alone(Queries, Detection())),
    "similarity": Explained(synthetic(Similarity(embed_texts(["amber"]))), None),
    "similarity_texts": Explained(synthetic(Similarity(texts=["an amber shape", *NAMES[1:], "nothing"])), "an amber shape"),
    "difference": Explained(synthetic(Difference())),
    "difference_other": Explained(alone(Classes, Difference(other=4))),
}
# other outputs and options of the same tasks, which need not be tested in every game and under every metric
VARIANTS = ("binary", "regression_stay", "segmentation_dict", "detection_queries", "difference_other")
MAIN = [name for name in TASKS if name not in VARIANTS]
