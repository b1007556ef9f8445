"""Detection: boxes with classes and scores; people read the score of the best match of an object's box.

Petsiuk et al. 2021 (D-RISE), section 3.2: the similarity of a detection to the object that is explained is the overlap of
the boxes (IoU) times the score of the object's class. The value is the best detection's, which is differentiable in both.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from mpx.data.targets import Categories
from mpx.tasks.base import Labels, Task, fitting_task

OBJECTS = 1000  # target = class + OBJECTS * k is the object of this class with the k-th highest score, from 0


class Detection(Task):
    """The task of a detector: torchvision's list of dicts, or logits (B,Q,K+1) and boxes (B,Q,4) as DETR gives them.

    An output is (B,N,6): x0, y0, x1, y1, class, score of N detections, padded with zeros. min_score: of objects that top1,
    top2, ... and class names choose from.
    """

    quantity = "score of the box"
    support_unit = "the best detection's IoU with the object's box times its score for the class"
    prepares = True
    is_placed = True

    def __init__(self, min_score: float = 0.3):
        if not 0 <= min_score <= 1:
            raise ValueError(f"task.min_score={min_score} must be from 0 to 1")
        self.min_score = min_score

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the detections (count,N,6)."""
        if hasattr(raw, "pred_boxes"):  # foreign: output of Hugging Face
            return _of_queries(raw.logits, raw.pred_boxes)
        if isinstance(raw, (list, tuple)) and len(raw) == count and all(isinstance(one, dict) for one in raw):
            columns = [(d["boxes"], d["labels"][:, None].to(d["boxes"]), d["scores"][:, None]) for d in raw]
            return _padded([torch.cat(parts, 1) for parts in columns])
        if isinstance(raw, (list, tuple)) and len(raw) == 2 and all(isinstance(x, Tensor) and x.ndim == 3 for x in raw):
            return _of_queries(*raw)
        actual = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
        raise ValueError(
            f"task=detection needs a list of dicts with boxes, labels and scores, or logits (B,Q,K) and boxes (B,Q,4), "
            f"and the model gives {actual}{fitting_task(raw)}"
        )

    def class_count(self, output: Tensor) -> int | None:
        """Return None: the detections do not say how many classes there are."""
        return None

    def is_empty(self, output: Tensor) -> bool:
        """Return whether nothing is detected."""
        return not output[..., 5].any()

    def comparable(self, output: Tensor) -> Tensor:
        """Return the detection (B,6) with the highest score; rounding may change the order and the number of the others."""
        return output[torch.arange(len(output)), output[..., 5].argmax(1)]

    def resolve(self, target: Any, output: Tensor, label: Labels, categories: Categories) -> list[int]:
        """Return objects: top1, top2, ... by score, the best of a class, or class + 1000 * k. output: (N,6) of an image."""
        objects = self._objects(output)
        if not objects:
            raise ValueError(
                f"the model detects nothing in this image with a score of at least {self.min_score}: lower task.min_score"
            )
        classes = output.new_zeros(len(categories) if categories else OBJECTS)
        result = []
        for one in target if isinstance(target, list) else [target]:
            top = re.fullmatch(r"top(\d+)", one) if isinstance(one, str) else None
            if top:
                indices = objects[int(top[1]) - 1 : int(top[1])]
            elif isinstance(one, int) and one >= OBJECTS:
                indices = [one]
            else:
                indices = super().resolve(one, classes, label, categories)
            if not indices or not set(indices) <= set(objects):
                found = ", ".join(f"{index} ({self.name(index, categories)})" for index in objects[:10])
                raise ValueError(f"target {one!r} is no object that the model detects here: there are {found}")
            result += indices
        return list(dict.fromkeys(result))

    def _objects(self, output: Tensor) -> list[int]:
        """Return the objects of an image, the highest score first."""
        seen: Counter[int] = Counter()
        objects = []
        for index in output[:, 5].argsort(descending=True, stable=True).tolist():
            if output[index, 5] < max(self.min_score, 1e-6):
                break
            label = int(output[index, 4])
            objects.append(label + OBJECTS * seen[label])
            seen[label] += 1
        return objects

    def name(self, target: int, categories: Categories) -> str:
        """Return the class's name, with a number where the object is not the first of its class."""
        number = f" {target // OBJECTS + 1}" if target >= OBJECTS else ""
        return super().name(self.class_index(target), categories) + number

    def class_index(self, target: int) -> int:
        """Return the class of an object."""
        return target % OBJECTS

    def prepare(self, targets: Tensor, output: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return (B,5): the class and the box of each object, in the units of the output."""
        prepared = []
        for target, detections in zip(targets.tolist(), output):
            label, rank = target % OBJECTS, target // OBJECTS
            scores = detections[:, 5].where(detections[:, 4] == label, -1.0)
            prepared.append(detections[scores.argsort(descending=True, stable=True)[rank], [4, 0, 1, 2, 3]])
        return torch.stack(prepared)

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B,2), whose softmax is 1 - v and v, the support of the object; the answer is the second."""
        overlap = _overlap(output[..., :4], targets[:, None, 1:])
        scores = output[..., 5] * (output[..., 4] == targets[:, :1])
        v = (overlap * scores).amax(1).clamp(1e-6, 1 - 1e-6)
        return torch.stack([torch.log1p(-v), v.log()], 1), torch.ones(len(v), dtype=torch.long, device=v.device)

    def region_of(self, targets: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return the boxes in images of `size` (H,W); boxes of at most 1 are shares of the sides, as DETR gives them."""
        boxes = targets[:, 1:, None]
        height, width = size
        if boxes.max() <= 1.01:
            boxes = boxes * boxes.new_tensor([width, height, width, height])[:, None]
        x, y = (torch.arange(side, device=boxes.device) + 0.5 for side in (width, height))
        columns = (boxes[:, 0] <= x) & (x <= boxes[:, 2])
        rows = (boxes[:, 1] <= y) & (y <= boxes[:, 3])
        return (rows[:, :, None] & columns[:, None])[:, None]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union (B,N) of boxes (B,N,4) and (B,1,4), x0 y0 x1 y1."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides.prod(-1)
    areas = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b))
    return intersection / (sum(areas) - intersection).clamp(min=1e-12)


def _of_queries(logits: Tensor, boxes: Tensor) -> Tensor:
    """Return the detections (B,Q*K,6) of logits (B,Q,K+1), the last for no object, and boxes (B,Q,4): centre and size."""
    scores = logits.softmax(-1)[..., :-1]
    corners = box_convert(boxes, "cxcywh", "xyxy")[:, :, None].expand(*scores.shape, 4)
    labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores)
    return torch.cat([corners, labels[..., None].to(scores), scores[..., None]], -1).flatten(1, 2)


def _padded(detections: Sequence[Tensor]) -> Tensor:
    """Return detections (n,6) of several images as (B,N,6)."""
    longest = max(1, *map(len, detections))
    return torch.stack([torch.nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in detections])
