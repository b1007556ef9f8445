"""Detection: boxes with classes and scores; people read the score of the best match of an object's box.

Petsiuk et al. 2021 (D-RISE), section 3.2: the similarity of a detection to the object that is explained is the overlap of
the boxes (IoU) times the score of the object's class. The value is the best detection's, which is differentiable in both.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from mpx.data.targets import ANY_CLASS, NotInImageError, Target, TargetContext, resolve_targets
from mpx.tasks.base import Task, are_shares, fitting_task

MAX_SHARE = 1.5  # of corners in shares of the sides, for centres and sides of boxes are at most 1; pixels go beyond


class Detection(Task):
    """The task of a detector: torchvision's list of dicts, or logits (B,Q,K+1) and boxes (B,Q,4) as DETR gives them.

    An output is (B,N,6): x0, y0, x1, y1, class, score of N detections, padded with zeros. min_score: of objects that top1,
    top2, ... and class names choose from. box: [x0,y0,x1,y1] as shares of the input's width and height, an object that is
    given instead; the target is its class. The object of target=label is the dataset's, where it has boxes.
    """

    quantity = "score of the box"
    support_unit = "the best detection's IoU with the object's box times its score for the class"
    prepares = True
    is_placed = True

    def __init__(self, min_score: float = 0.3, box: Sequence[float] | None = None):
        if not 0 <= min_score <= 1:
            raise ValueError(f"task.min_score={min_score} must be from 0 to 1")
        if box is not None and not (are_shares(box, [4]) and box[0] < box[2] and box[1] < box[3]):
            raise ValueError(
                f"task.box={box} must be [x0,y0,x1,y1] in shares of the sides, 0 to 1, with x0 < x1 and y0 < y1"
            )
        self.min_score = min_score
        self.box = box

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

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return objects with their boxes (4,), in the units of the output. output: (N,6) of an image.

        top1, top2, ... are predicted objects by score; a class is its best predicted object, or the class of `box`; label:
        all objects of the dataset, where it has boxes.
        """
        output = output.cpu()  # its rows are read one by one
        words = list(target) if isinstance(target, (list, tuple)) else [target]
        if self.is_empty(output):
            raise NotInImageError("the model detects nothing in this image")
        if self.box is not None:
            box = _in_units_of(output, torch.tensor([*self.box]), context)
            return [Target(index, box) for index in self._classes_of_box(words, context)]
        labels = context.label if isinstance(context.label, tuple) else (context.label,)
        regions = {one: context.regions[one] for one in labels if one is not None and one in context.regions}
        if "label" in words and regions:
            if len(words) > 1:
                raise ValueError(f"target={target} mixes the dataset's objects with predicted ones: give one kind")
            return self._annotated(output, replace(context, regions=regions))
        objects = self._predicted(output)
        found = {one.key: one for word in words for one in self._named(word, objects, context)}
        return list(found.values())

    def _classes_of_box(self, words: list, context: TargetContext) -> list[int]:
        if any(isinstance(word, str) and re.fullmatch(r"top\d+", word) for word in words):
            raise ValueError(f"task.box={list(self.box or ())} needs the class of the box: set target= to its index or name")
        return _class_indices(words, context)

    def _predicted(self, output: Tensor) -> list[Target]:
        """Return the predicted objects of an image, the highest score first."""
        seen: Counter[int] = Counter()
        objects = []
        for row in output[output[:, 5].argsort(descending=True, stable=True)]:
            if row[5] < max(self.min_score, 1e-6):
                break
            label = int(row[4])
            seen[label] += 1
            objects.append(Target(label, row[:4].clone(), seen[label]))
        return objects

    def _named(self, word: Any, objects: list[Target], context: TargetContext) -> list[Target]:
        """Return the predicted objects that a word names."""
        if not objects:
            raise NotInImageError(
                f"the model detects nothing in this image with a score of at least {self.min_score}: lower task.min_score"
            )
        top = re.fullmatch(r"top(\d+)", word) if isinstance(word, str) else None
        if top:
            chosen = objects[int(top[1]) - 1 : int(top[1])]
        else:
            classes = _class_indices(word, context)
            best = {one.index: one for one in reversed(objects)}
            chosen = [best[index] for index in classes if index in best]
            chosen = chosen if len(chosen) == len(classes) else []
        if not chosen:
            names = dict.fromkeys(f"{one.index} ({self.name(one.index, context.categories)})" for one in objects[:10])
            raise NotInImageError(f"target {word!r} is no object that the model detects here: there are {', '.join(names)}")
        return chosen

    def _annotated(self, output: Tensor, context: TargetContext) -> list[Target]:
        """Return the objects of the dataset that the network's input shows."""
        objects = []
        for label, region in context.regions.items():
            index = _class_indices("label", replace(context, label=label))[0]
            boxes = [(one, box) for one in region.single_objects() for box in context.annotate(one).boxes()]
            objects += [
                Target(index, _in_units_of(output, box / _sides(context), context), number, one)
                for number, (one, box) in enumerate(boxes, 1)
            ]
        if not objects:
            raise NotInImageError("the boxes of the dataset lie outside of the part of this image that the network gets")
        return objects

    def prepare(
        self, targets: Tensor, output: Tensor, reference: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return (B,5): the class and the box of each object, in the units of the output.

        places: (B,4) boxes; None: those of the best predicted objects of the classes.
        """
        if places is None:
            scores = output[..., 5].where(output[..., 4] == targets[:, None], -1.0)
            places = output[torch.arange(len(output)), scores.argmax(1), :4]
        return torch.cat([targets[:, None].to(output), places.to(output)], 1)

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
        if boxes.max() <= MAX_SHARE:
            boxes = boxes * boxes.new_tensor([width, height, width, height])[:, None]
        x, y = (torch.arange(side, device=boxes.device) + 0.5 for side in (width, height))
        columns = (boxes[:, 0] <= x) & (x <= boxes[:, 2])
        rows = (boxes[:, 1] <= y) & (y <= boxes[:, 3])
        return (rows[:, :, None] & columns[:, None])[:, None]


def _class_indices(target: Any, context: TargetContext) -> list[int]:
    """Return the class indices of words that name classes; a detector without class names may have any number of them."""
    classes = len(context.categories) if context.categories else ANY_CLASS
    return resolve_targets(target, torch.zeros(1).expand(classes), context.label, context.categories)


def _sides(context: TargetContext) -> Tensor:
    """Return width, height, width, height of the network's input in pixels, (4,)."""
    height, width = context.preprocess.crop
    return torch.tensor([width, height, width, height])


def _in_units_of(output: Tensor, box: Tensor, context: TargetContext) -> Tensor:
    """Return a box (4,) in shares of the sides in the units of the output (N,6), shares or pixels."""
    return box if output[:, :4].max() <= MAX_SHARE else box * _sides(context)


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
