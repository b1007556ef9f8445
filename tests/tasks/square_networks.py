"""Small networks of each task whose evidence is the checkerboard of planted.SquareNet, for laws that hold of any network."""

import torch
from planted import SquareNet
from torch import nn

from mpx.tasks.detection import Detection
from mpx.tasks.difference import Difference
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

BOX = torch.tensor([16.0, 8.0, 24.0, 16.0])  # of the checkerboard: x0 y0 x1 y1


class Multi(SquareNet):
    """Three labels; the second is the checkerboard's."""

    def forward(self, x):
        logit = super().forward(x)[:, 1]
        return torch.stack([x.mean((1, 2, 3)), logit, -logit], 1)


class Binary(SquareNet):
    """A single logit: is there a checkerboard?"""

    def forward(self, x):
        return super().forward(x)[:, 1:]


class Value(SquareNet):
    """A predicted value, 35 on average, that a checkerboard raises."""

    def forward(self, x):
        return 35 + 3 * super().forward(x)[:, 1]


class Segments(SquareNet):
    """Logits of two classes for 8 x 8 patches: the patch of the checkerboard is of class 1, the others of class 0."""

    def forward(self, x):
        logit = super().forward(x)[:, 1]
        output = torch.zeros(len(x), 2, 4, 4, device=x.device)
        output[:, 0] = 3.0
        place = torch.zeros(4, 4)
        place[1, 2] = 1.0
        return {"out": torch.stack([output[:, 0], place * (3 + logit)[:, None, None]], 1)}


class Boxes(SquareNet):
    """torchvision's list of dicts: the checkerboard's box, and another one that is always there."""

    def forward(self, x):
        scores = super().forward(x)[:, 1].sigmoid()
        boxes = torch.stack([BOX, torch.tensor([0.0, 0.0, 9.0, 9.0])])
        labels = torch.tensor([1, 2])
        return [{"boxes": boxes, "labels": labels, "scores": torch.stack([s, 0.9 + 0 * s])} for s in scores]


class Queries(SquareNet):
    """DETR's logits (B,Q,K+1) and boxes (B,Q,4) of the same two objects."""

    def forward(self, x):
        logit = super().forward(x)[:, 1]
        zero = torch.zeros_like(logit)
        board, other = [zero - 9, logit, zero - 9, zero], [zero, zero, zero + 3, zero]
        logits = torch.stack([torch.stack(board, 1), torch.stack(other, 1)], 1)
        boxes = torch.tensor([[20.0, 12.0, 8.0, 8.0], [4.5, 4.5, 9.0, 9.0]]) / 32
        return logits, boxes.expand(len(x), 2, 4)


class Embedding(SquareNet):
    """An embedding in three dimensions; the second is the checkerboard's."""

    def forward(self, x):
        logit = super().forward(x)[:, 1]
        return torch.stack([torch.ones_like(logit), logit.clamp(min=0), 0.1 * x.mean((1, 2, 3))], 1)


EYE = torch.eye(3)
# name -> (network, task, target)
TASKS = {
    "multilabel": (Multi, Multilabel(), 1),
    "binary": (Binary, Multilabel(), 1),
    "regression": (Value, Regression("up"), 0),
    "regression_stay": (Value, Regression("stay"), 0),
    "segmentation": (Segments, Segmentation(background=0), "top1"),
    "segmentation_box": (Segments, Segmentation([0.5, 0.25, 0.75, 0.5]), 1),
    "detection": (Boxes, Detection(), 1),
    "detection_queries": (Queries, Detection(), 1),
    "similarity": (Embedding, Similarity(EYE[1]), 0),
    "similarity_texts": (Embedding, Similarity(EYE, ["thing", "board", "light"], scale=4.0), "board"),
    "difference": (SquareNet, Difference(), 1),
}


def network(name: str) -> nn.Module:
    return TASKS[name][0]().eval()
