"""evaluate(): metrics of an explanation in Python, the numbers that a run writes to results.csv."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mpx import config
from mpx.data.annotations import Annotation, Region
from mpx.data.preprocessing import Preprocess
from mpx.errors import memory_error_as_sentence
from mpx.explanation import Explanation
from mpx.learning.method import Method
from mpx.learning.rows import Row
from mpx.metrics.base import as_metric
from mpx.models.bare import as_classifier
from mpx.models.checks import checked_output
from mpx.models.classifier import Classifier
from mpx.operators import describe, unwrap
from mpx.runs.evaluation import Evaluator, needs_annotations
from mpx.runs.tables import metric_columns, table_rows
from mpx.tasks.difference import ModelDifference
from mpx.verdicts import verdict_sentences

BATCH = 16  # rows that are evaluated together


def evaluate(
    explanation: Explanation,
    model: nn.Module | str,
    metric: Sequence[str | Callable] | Mapping[str, Callable],
    *,
    regions: Tensor | None = None,
    other_perturbations: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return the values (B,) of metrics for each row, by column of results.csv; NaN: none.

    model: the explained one. metric: names of options in configs/metric/ or functions of the same contract, or name ->
    function, e.g. {"deletion": partial(deletion, step=448)}. regions: (B,1,H,W) of True where the target is, for metrics
    that compare with it. other_perturbations: names, for metrics that compare perturbations; None: the command's default.

    Raises ValueError, one sentence, where a metric does not apply.
    """
    e, classifier = explanation, as_classifier(model)
    if not isinstance(e.task, ModelDifference):
        classifier = classifier.with_task(e.task)
    elif not classifier.compared:
        raise ValueError("this explanation compares two models: give the Classifier with its task=ModelDifference(...)")
    if not isinstance(e.method, Method):
        raise ValueError("this explanation does not say by which method it was made: give what explain() returned")
    names = config.compose().other_perturbations if other_perturbations is None else other_perturbations
    others = config.other_perturbations(names)
    functions = {name: as_metric(function) for name, function in _named(metric).items()}
    if regions is None and (needing := needs_annotations(functions)):
        raise ValueError(f"metric {needing[0]} compares with where the target is: give regions=, (B,1,H,W) of True there")
    _check_regions(regions, e)
    _check_targets(e, classifier)
    rows = [
        Row(
            e.images[i], int(e.targets[i]), e.image_names[i],
            area=None if math.isnan(e.areas[i]) else float(e.areas[i]),
            place=None if e.places is None else e.places[i],
            annotation=None if regions is None else _annotation(regions[i, 0]),
        )
        for i in range(len(e))
    ]  # fmt: skip
    values = []
    with memory_error_as_sentence(), classifier.frozen_and_folded(e.images):
        evaluator = Evaluator(functions, others, e.method, classifier)
        for k in range(0, len(rows), BATCH):
            part = slice(k, k + BATCH)
            values += evaluator.evaluate(rows[part], e.saliency[part], e.mask[part], e.value_normalised[part])
    lines = [metric_columns(line) for line in values]
    columns = [column for column in lines[0] if "@" not in column]  # points of curves have no column
    found = {name: torch.tensor([math.nan if line[name] is None else line[name] for line in lines]) for name in columns}
    if empty := [name for name in functions if name in found and found[name].isnan().all()]:
        lines_without = [line for line in table_rows(e) if math.isnan(line["value_normalised"])]
        for sentence in verdict_sentences(lines_without, e.method, e.task) or [f"{', '.join(empty)}: no row has a value"]:
            warnings.warn(sentence, stacklevel=2)
    return found


def _named(metric: Sequence[str | Callable] | Mapping[str, Callable]) -> Mapping[str, Callable]:
    """Return name -> function."""
    if isinstance(metric, str):
        raise ValueError(f"metric={metric!r} must be a list, e.g. metric=[{metric!r}]")
    if isinstance(metric, Mapping):
        return metric
    return {one if isinstance(one, str) else unwrap(one).__name__: config.option("metric", one) for one in metric}


def _check_regions(regions: Any, e: Explanation) -> None:
    """Raise ValueError where regions are not (B,1,H,W) of True and False."""
    shape = (len(e), 1, *e.images.shape[2:])
    is_mask = isinstance(regions, Tensor) and regions.dtype is torch.bool and regions.shape == shape
    if regions is not None and not is_mask:
        kind = f" of {regions.dtype}" if isinstance(regions, Tensor) else ""
        raise ValueError(f"regions={describe(regions)}{kind} must be a tensor (B,1,H,W) = {shape} of True and False")


def _check_targets(e: Explanation, classifier: Classifier) -> None:
    """Raise ValueError where the model does not take the images, or lacks a class that is explained."""
    with torch.no_grad(), classifier.frozen():
        choices = classifier.task.target_choices(checked_output(classifier, e.images[:1].to(classifier.device)))
    if choices and (missing := set(e.targets.tolist()) - set(choices)):
        raise ValueError(
            f"model {classifier.name} has no class {min(missing)}, which is explained (it has 0 to {max(choices)}): give "
            "the explained model"
        )


def _annotation(region: Tensor) -> Annotation:
    """Return a region (H,W) of True and False as an annotation of an image of this size."""
    height, width = region.shape
    drawing = Image.fromarray(region.cpu().numpy())
    return Annotation(Region(draw=partial(Image.Image.copy, drawing)), (width, height), Preprocess((height, width)))
