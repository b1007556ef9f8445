"""Metrics of a run's rows: of each batch after its optimization, and of stored masks when metrics are added later.

Metrics see the saliency as it is stored, so both give the same numbers. They are stored with a row as JSON, metric -> suffix
-> number; their columns in results.csv are <metric> or <metric>_<suffix>.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpx.data.annotations import Region, regions_digest
from mpx.learning.batching import solve
from mpx.learning.loop import optimize
from mpx.learning.method import Method
from mpx.learning.rows import Row, stacked_places
from mpx.metrics.base import Metric, MetricContext, column_name
from mpx.metrics.summary import SummaryContext
from mpx.models.classifier import Classifier
from mpx.operators import dotted_name, unwrap
from mpx.perturbations.base import PerturbationContext, fully_perturbed
from mpx.randomness import RowRandom

OWN = "own"  # name of the perturbation that the masks are learnt with, among those of metrics


class Evaluator:
    """Computes metrics of rows of one classifier."""

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        other_perturbations: Mapping[str, Callable[..., Any]],
        method: Method,
        classifier: Classifier,
    ):
        """other_perturbations: those of the same kind as the method's own are left out."""
        own = _kind(method.perturbation)
        comparison = {name: other for name, other in other_perturbations.items() if _kind(other) != own}
        self.metrics = dict(metrics)
        self._perturbations = {OWN: method.perturbation, **comparison}
        self._method = method
        self._classifier = classifier

    def evaluate(
        self,
        batch: Sequence[Row],
        saliency: Tensor,
        mask: Tensor | None,
        value_normalised: Tensor | None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> list[str]:
        """Return the metrics of each row as JSON.

        saliency: (B,1,H,W) in [0,1]; mask: (B,1,H,W) and value_normalised: (B,) of the masks as optimized, None where there
        is no mask but the saliency; metrics: a part of the evaluator's.
        """
        saliency = self._as_stored(saliency)
        context = self._context(batch, None if mask is None else self._as_stored(mask), value_normalised)
        columns = {}
        for name, metric in (self.metrics if metrics is None else metrics).items():
            columns[name] = {suffix: _json_numbers(column) for suffix, column in metric(saliency, context).items()}
        return [
            json.dumps({name: {suffix: column[i] for suffix, column in values.items()} for name, values in columns.items()})
            for i in range(len(batch))
        ]

    def _as_stored(self, x: Tensor) -> Tensor:
        return x.half().float().to(self._classifier.device)

    def _context(self, batch: Sequence[Row], mask: Tensor | None, value_normalised: Tensor | None) -> MetricContext:
        device = self._classifier.device
        targets = torch.tensor([row.target for row in batch], device=device)
        return MetricContext(
            classifier=self._classifier,
            images=torch.stack([row.image for row in batch]).to(device),
            targets=targets,
            game=self._method.game,
            mask=mask,
            annotations=[row.annotation for row in batch],
            perturbations={name: partial(self._perturb_fully, f, targets) for name, f in self._perturbations.items()},
            value_normalised=None if value_normalised is None else value_normalised.to(device),
            explain=partial(self._explain_again, batch),
            task=self._classifier.task,
            places=stacked_places(batch),
        )

    def _perturb_fully(self, perturbation: Callable[..., Any], targets: Tensor, images: Tensor) -> Tensor:
        """Return the images (B,C,H,W) with every pixel perturbed."""
        context = PerturbationContext(self._classifier, targets, RowRandom([self._method.seed] * len(images), images.device))
        return fully_perturbed(perturbation, images, context)

    def _explain_again(
        self, batch: Sequence[Row], classifier: Classifier, images: Tensor, targets: Tensor, seed: int
    ) -> Tensor:
        """Return the saliency of other images, targets, parameters or seeds, for metrics of a method."""
        is_same = targets.tolist() == [row.target for row in batch]  # else each is at a place that its task finds
        rows = [
            Row(x, target, f"row {i}", row.area, row.place if is_same else None)
            for i, (x, target, row) in enumerate(zip(images, targets.tolist(), batch))
        ]
        with classifier.frozen_and_folded(images):  # random parameters have not been folded yet
            explanation, failures = solve(replace(self._method, seed=seed, compile=False), classifier, rows, optimize, 2)
        for reason in failures.values():
            raise ValueError(reason)
        return explanation.saliency.to(images)


class Protocols:
    """The protocols under which rows are evaluated and judged. A row with other protocols is evaluated again."""

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        other_perturbations: Mapping[str, Callable[..., Any]],
        verdict: "partial[str]",
    ):
        self._annotated_metrics = needs_annotations(metrics)
        self._entries = {
            name: _protocol_entry(metric, list(other_perturbations)) for name, metric in metrics.items()
        }
        self._entries["verdict"] = {"function": dotted_name(verdict), "options": verdict.keywords}
        self._of_all = json.dumps(self._entries, default=str)  # images, where no metric reads annotations

    def of(self, regions: Mapping[int | str, Region]) -> str:
        """Return the protocols of an image with these annotated regions as JSON, metric -> protocol."""
        if not self._annotated_metrics:
            return self._of_all
        entries = {
            name: entry | {"regions": regions_digest(dict(regions))} if name in self._annotated_metrics else entry
            for name, entry in self._entries.items()
        }
        return json.dumps(entries, default=str)


def _protocol_entry(metric: Metric, other_perturbations: list[str]) -> dict[str, Any]:
    options = {key: value for key, value in metric.options.items() if key != "max_batch"}  # it changes no number
    entry = metric.protocol | {"options": options}
    if "perturbations" in metric.needs:
        entry["other_perturbations"] = other_perturbations
    return entry


def needs_annotations(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the names of the metrics that compare with where the class is in the image."""
    return [name for name, metric in metrics.items() if "annotations" in metric.needs]


def summarise_metrics(
    metrics: Mapping[str, Metric], table: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return column -> value, interval95, n, better and metric (its name), over the rows of a results table."""
    summaries: dict[str, dict[str, Any]] = {}
    numbers = {image: n for n, image in enumerate(dict.fromkeys(row["image"] for row in table))}
    images = np.array([numbers[row["image"]] for row in table])
    context = SummaryContext(np.array([row["target"] for row in table]), images)
    table_columns = dict.fromkeys(key for row in table for key in row)
    for name, metric in metrics.items():
        columns = {
            column.removeprefix(name).removeprefix("_"): np.array([_nan_if_none(row.get(column)) for row in table])
            for column in table_columns
            if _metric_of(column, metrics) == name
        }
        if not columns:
            continue
        summary = metric.summarise(columns, context)
        for suffix, statistics in {"": summary, **summary.pop("parts", {})}.items():
            summaries[column_name(name, suffix)] = statistics | {"better": metric.direction_of(suffix), "metric": name}
    return summaries


def _kind(perturbation: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """Return the identity of a perturbation: it does not depend on the strength, but on the colour."""
    return unwrap(perturbation), perturbation.keywords.get("color") if isinstance(perturbation, partial) else None


def _metric_of(column: str, metrics: Mapping[str, Any]) -> str | None:
    """Return the metric that a column of the table belongs to."""
    owners = [name for name in metrics if column == name or column.startswith(f"{name}_")]
    return max(owners, key=len, default=None)


def _json_numbers(column: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value
