"""The rows of claimed images: reads each image, checks that it can be explained, and resolves its targets."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpx.data.images import image_size, read_image
from mpx.data.items import Item
from mpx.data.preprocessing import Preprocess
from mpx.data.targets import NotInImageError, TargetContext
from mpx.learning.rows import Row, annotated, rows_of_image
from mpx.models.checks import check_classifier
from mpx.models.classifier import Classifier
from mpx.runs.base import ClaimedImage, Coordinator
from mpx.runs.fingerprint import UNKNOWN, Fingerprint


class RowSource:
    """Gives rows of the coordinator's next images, and skips images that cannot be explained."""

    def __init__(
        self,
        coordinator: Coordinator,
        classifier: Classifier,
        target: Any,
        areas: tuple[float | None, ...],
        with_annotations: bool = False,
        check_metrics: Callable[[Tensor], None] | None = None,
        fingerprint: Fingerprint = UNKNOWN,
    ):
        """target: `target=`, one or a list; with_annotations: rows carry where their target is in the image.

        check_metrics: refuses metrics that do not apply to the model, of which it gets the output for an image.
        """
        self._coordinator = coordinator
        self._classifier = classifier
        self._target = target
        self._areas = areas
        self._with_annotations = with_annotations
        self._check_metrics = check_metrics
        self._fingerprint = fingerprint
        self._rows_per_image = len(areas) * (len(target) if isinstance(target, list) else 1)  # at most
        self._waiting: list[Row] = []
        self._model_checked = False

    def __call__(self, count: int) -> list[Row]:
        """Return at most `count` rows; none when all images are done."""
        while len(self._waiting) < count:
            images = math.ceil((count - len(self._waiting)) / self._rows_per_image)
            claimed = self._coordinator.claim(images)
            for image in claimed:
                self._add_rows(image)
            if not claimed or len(claimed) < images and self._waiting:  # near the end each worker gets fewer
                break
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        return rows

    def _add_rows(self, image: ClaimedImage) -> None:
        """Add the rows of an image, or skip it. An error that every image would cause stops the run."""
        item = image.item
        try:
            if item.problem:
                raise ValueError(item.problem)
            made_from = self._fingerprint.of_image(item)
            x, context = load_image(self._classifier, item)
            file_bytes = os.stat(item.path).st_size
        except (ValueError, OSError) as error:
            self._coordinator.skip(item.name, str(error))
            return
        if reason := self._check_model(x, context):
            self._coordinator.skip(item.name, reason)
            return
        try:
            self._waiting += self._unfinished_rows(image, x, context, file_bytes, made_from)
        except ValueError as error:
            self._coordinator.skip(item.name, str(error).removeprefix(f"{item.name}: "))

    def _check_model(self, x: Tensor, context: TargetContext) -> str | None:
        """Fold the model on the first image (C,H,W), and check it and the target there.

        Return why this image cannot be explained, if others could be.
        Raises ValueError for an error that every image would cause.
        """
        if self._model_checked:
            return None
        try:
            output, warning = self._fold_and_check(x)
        except ValueError as error:
            self._fold_and_check(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)))
            return str(error)
        if warning:
            self._coordinator.warn(warning)
        if self._check_metrics:
            self._check_metrics(output[None])
        targets = self._target if isinstance(self._target, list) else [self._target]
        if "label" not in targets:
            with suppress(NotInImageError):
                self._classifier.task.resolve(self._target, output, context)
        self._model_checked = True
        return None

    def _fold_and_check(self, x: Tensor) -> tuple[Tensor, str]:
        """Fold the model's batch norms, checked on an image (C,H,W); return its output, and why none are folded."""
        self._classifier.unfold()
        warning = self._classifier.fold(x[None])
        return check_classifier(self._classifier, x[None])[0], warning

    def _unfinished_rows(
        self, image: ClaimedImage, x: Tensor, context: TargetContext, file_bytes: int, made_from: dict[str, Any]
    ) -> list[Row]:
        item = image.item
        rows = [
            replace(
                annotated(row, context) if self._with_annotations else row,
                image_index=image.image_index,
                regions=item.regions,
            )
            for row in rows_of_image(self._classifier, x, item.name, self._target, self._areas, context)
        ]
        provenance = {
            "row_keys": np.array([row.key for row in rows], np.str_),
            "path": str(image.sent_from or item.path),
            "file_bytes": file_bytes,
        }
        return [
            replace(row, provenance=provenance | self._row_provenance(row, made_from))
            for row in rows
            if row.key not in image.finished_rows
        ]

    def _row_provenance(self, row: Row, made_from: dict[str, Any]) -> dict[str, str]:
        return {"row_key": row.key, "made_from": self._fingerprint.of_row(made_from, row.image_name, row.target)}


def preprocessing(classifier: Classifier) -> Preprocess:
    """Return the preprocessing of a run's model, which a bare Classifier may lack."""
    assert classifier.preprocess is not None, "every option of model= has preprocessing"
    return classifier.preprocess


def load_image(classifier: Classifier, item: Item) -> tuple[Tensor, TargetContext]:
    """Return the image (C,H,W) in [0,1] that the network gets, and what tasks may know of it."""
    image, preprocess = read_image(item.path, classifier.channels), preprocessing(classifier)
    context = TargetContext(classifier.categories, item.label, item.regions, item.path, image_size(image), preprocess)
    return preprocess(image, classifier.channels), context
