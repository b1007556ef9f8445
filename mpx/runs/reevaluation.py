"""Metrics of stored masks: rows that lack the chosen metrics, and sums of the masks of several areas."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpx.learning.rows import Row, annotated
from mpx.metrics.areas import group_rows, sum_of_areas
from mpx.models.classifier import Classifier
from mpx.runs import store, tables
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.evaluation import Evaluator, Protocols, needs_annotations
from mpx.runs.plan import RunPlan
from mpx.runs.stored_rows import load_problem

log = logging.getLogger("mpx")
MAPS = ("saliency", "mask")  # of a stored row, (H,W)


class LoadedRow(NamedTuple):
    """The stored values of a row on disk, and the row itself."""

    stored: dict[str, Any]
    row: Row


def reevaluate(plan: RunPlan, coordinator: RunCoordinator, device: torch.device) -> None:
    """Evaluate the rows whose metrics are missing, or were computed with other options or regions."""
    protocols = Protocols(plan.metrics, plan.other_perturbations, plan.verdict)
    paths = coordinator.stale_rows(protocols.of)
    if not paths:
        return
    log.info(f"evaluating {len(paths)} masks that were stored before")
    unreadable: dict[str, str] = {}
    with _evaluator(plan, device) as (evaluator, classifier):
        for batch in _batches(paths, plan.batch_size_on("cpu")):
            loaded = [row for path in batch if (row := store.load_row(coordinator.folder / path))]
            loaded_rows = _load_rows(plan, coordinator, classifier, loaded, unreadable)
            if loaded_rows:
                _evaluate_stored(plan, coordinator, evaluator, protocols, loaded_rows)
    if unreadable:
        image_name, reason = next(iter(unreadable.items()))
        log.warning(
            f"{len(unreadable)} images are not evaluated, as {image_name}: {reason}; restore them and run the command again"
        )


def _evaluate_stored(
    plan: RunPlan,
    coordinator: RunCoordinator,
    evaluator: Evaluator,
    protocols: Protocols,
    loaded_rows: Sequence[LoadedRow],
) -> None:
    """Evaluate rows on disk, write the new metrics beside those that are still valid, and judge the rows again."""
    expected = [protocols.of(row.regions) for _, row in loaded_rows]
    present = [json.loads(stored.get("evaluated_with") or "{}") for stored, _ in loaded_rows]
    pairs = list(zip(present, map(json.loads, expected)))
    valid = {name for name in evaluator.metrics if all(old.get(name) == new[name] for old, new in pairs)}
    missing = {name: metric for name, metric in evaluator.metrics.items() if name not in valid}
    saliency, mask = (torch.stack([torch.from_numpy(stored[key])[None] for stored, _ in loaded_rows]) for key in MAPS)
    value_normalised = torch.tensor([stored["value_normalised"] for stored, _ in loaded_rows])
    values = evaluator.evaluate([row for _, row in loaded_rows], saliency, mask, value_normalised, missing)
    for (stored, _), protocol, new in zip(loaded_rows, expected, values):
        metrics = json.loads(stored.get("metrics", "{}")) | json.loads(new)
        stored["metrics"] = json.dumps({name: metrics[name] for name in evaluator.metrics})
        stored["verdict"] = plan.verdict(stored | tables.metric_columns(stored["metrics"]))
        stored["evaluated_with"] = protocol
        store.replace_row(coordinator.folder / "masks" / f"{stored['name']}.npz", stored)
    coordinator.update_rows([stored for stored, _ in loaded_rows])


def evaluate_area_sums(plan: RunPlan, coordinator: RunCoordinator, device: torch.device) -> list[dict[str, Any]]:
    """Return the lines of area_sums.csv: metrics of the sum of the masks of all areas of an image and class.

    The sum answers the pointing game of Fong, Patrick & Vedaldi (2019). Metrics that explain again are left out: the sum is
    the result of no single optimization.
    """
    table = coordinator.table()
    keys = [(row["image"], row["target"], row["class"]) for row in table]
    groups = [rows for rows in group_rows(keys).values() if len(rows) > 1]
    metrics = {name: metric for name, metric in plan.metrics.items() if "explain" not in metric.needs}
    if not groups or not metrics:
        return []
    lines = []
    with _evaluator(plan, device) as (evaluator, classifier):
        for batch in _batches(groups, plan.batch_size_on("cpu")):
            paths = [[coordinator.folder / table[index]["mask"] for index in rows] for rows in batch]
            loaded = [[row for path in group if (row := store.load_row(path))] for group in paths]
            sums = {group[-1]["name"]: _sum_of_masks(group) for group in loaded}
            loaded_rows = _load_rows(plan, coordinator, classifier, [group[-1] for group in loaded], {})
            if not loaded_rows:
                continue
            saliency = torch.stack([sums[stored["name"]] for stored, _ in loaded_rows])
            values = evaluator.evaluate([row for _, row in loaded_rows], saliency, None, None, metrics)
            for (stored, _), metrics_json in zip(loaded_rows, values):
                names = {key: stored[key] for key in ("image", "target", "class")}
                lines.append(names | tables.metric_columns(metrics_json))
    return lines


def _sum_of_masks(stored: Sequence[dict[str, Any]]) -> Tensor:
    """Return the sum (1,H,W) of the saliency of stored rows, with maximum 1."""
    total = sum_of_areas(torch.stack([torch.from_numpy(row["saliency"]).float()[None] for row in stored]))
    return total / total.max().clamp(min=1e-6)


@contextmanager
def _evaluator(plan: RunPlan, device: torch.device) -> Iterator[tuple[Evaluator, Classifier]]:
    classifier = plan.build_classifier(device)
    with classifier.frozen():
        yield Evaluator(plan.metrics, plan.other_perturbations, plan.method, classifier), classifier


def _load_rows(
    plan: RunPlan,
    coordinator: RunCoordinator,
    classifier: Classifier,
    stored: Sequence[dict[str, Any]],
    unreadable: dict[str, str],
) -> list[LoadedRow]:
    """Return stored rows with their images; an image that cannot be read is left out and noted in `unreadable`."""
    with_annotations = bool(needs_annotations(plan.metrics))
    loaded_rows = []
    for row in stored:
        item = coordinator.items[coordinator.image_indices[row["image"]]]
        try:
            loaded, context = load_problem(classifier, item, row, plan.target)
            loaded = annotated(loaded, context) if with_annotations else loaded
        except ValueError as error:
            unreadable[row["image"]] = str(error)
            continue
        loaded_rows.append(LoadedRow(row, replace(loaded, regions=item.regions)))
    return loaded_rows


def _batches(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
