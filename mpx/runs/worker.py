"""The work of every worker, in the main process or in one of its own: claims images, explains them in batches, stores rows.

A row is on disk before the coordinator counts it.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mpx.errors import is_out_of_memory
from mpx.explanation import Explanation
from mpx.learning.batch import RowBatch
from mpx.learning.batch_position import batch_position_matters
from mpx.learning.batching import Batch, RowSolver, Solution, prepare_batch
from mpx.learning.fitting import fit
from mpx.learning.learner import BatchLearner, SilentCallback
from mpx.learning.memory import kept_memory
from mpx.learning.rows import Row
from mpx.metrics.base import Metric, check_network
from mpx.models.classifier import Classifier
from mpx.option_values import check_limits
from mpx.runs import store, summaries, tables
from mpx.runs.base import Coordinator
from mpx.runs.curve_means import CurveMeans
from mpx.runs.devices import deterministic_algorithms
from mpx.runs.distributed import SampleGroup
from mpx.runs.evaluation import Evaluator, Protocols, needs_annotations
from mpx.runs.fingerprint import Fingerprint
from mpx.runs.launch import single_device
from mpx.runs.plan import RunPlan
from mpx.runs.row_source import RowSource, preprocessing
from mpx.runs.trainers import batch_trainer
from mpx.verdicts import judge

REPORT_INTERVAL = 0.5  # seconds between two reports of progress


def work(coordinator: Coordinator | None, plan: RunPlan, device: torch.device, group: SampleGroup | None = None) -> None:
    """Explain the images that the coordinator hands out, on one device.

    group: the ranks of parallel=samples; all but rank 0 have no coordinator, and write nothing.
    """
    if group:
        group.join()
    classifier = plan.build_classifier(device)
    # folded, too, once there is an image
    with kept_memory(), deterministic_algorithms(plan.deterministic), classifier.frozen():
        Worker(plan, classifier, coordinator if not group or group.rank == 0 else None, group).run()


class Worker:
    """Explains batch after batch on one device."""

    def __init__(self, plan: RunPlan, classifier: Classifier, coordinator: Coordinator | None, group: SampleGroup | None):
        self._plan = plan
        self._classifier = classifier
        self._coordinator = coordinator
        self._group = group
        self._progress = ProgressCallback(coordinator) if coordinator else None
        self._trainer_arguments = group.trainer_arguments if group else partial(single_device, classifier.device)
        self._protocols = Protocols(plan.metrics, plan.other_perturbations, plan.verdict)
        self._evaluator = Evaluator(plan.metrics, plan.other_perturbations, plan.method, classifier)
        self._fits = 0

    def run(self) -> None:
        """Explain images until the coordinator has none."""
        plan, classifier = self._plan, self._classifier
        if self._coordinator:
            self._coordinator.log(f"{classifier.name} on {classifier.device}")
        shape = (classifier.channels, *preprocessing(classifier).crop)
        solver = RowSolver(
            prepare=self._prepare,
            optimize=self._fit,
            next_rows=self._row_source(),
            batch_size=plan.batch_size_on(classifier.device.type),
            warn=self._coordinator.warn if self._coordinator else ignore,
            position_matters=partial(batch_position_matters, classifier, shape) if plan.deterministic else None,
            pad=plan.method.compile,
            can_halve=not self._group,
        )
        for solution in solver:
            if not self._coordinator:
                continue
            if plan.method.explainer:  # it has no iterations that could be reported
                self._coordinator.report_progress(len({row.image_name for row in solution.rows}))
            self._store_batch(self._coordinator, solution)

    def make_trainer(self, batch_name: str) -> pl.Trainer:
        """Return the Trainer of one fit, with callbacks and loggers of its own.

        batch_name: a name for what they write, used by no other batch of the run.
        """
        return batch_trainer(self._plan, batch_name, self._progress, **self._trainer_arguments())

    def _row_source(self) -> Callable[[int], list[Row]]:
        source = None
        if self._coordinator:
            with_annotations = bool(needs_annotations(self._plan.metrics))
            areas = self._plan.method.areas
            check = partial(check_metrics_of_model, self._plan.metrics, self._classifier)
            fingerprint, target = Fingerprint.of(self._plan), self._plan.target
            source = RowSource(self._coordinator, self._classifier, target, areas, with_annotations, check, fingerprint)
        if not self._group:
            assert source is not None
            return source
        same_rows = self._group.broadcast_rows(source)

        def next_rows(count: int) -> list[Row]:
            rows = same_rows(count)
            if rows:
                self._classifier.fold(rows[0].image[None])  # rank 0 has done so as it read the image
            return rows

        return next_rows

    def _prepare(self, rows: list[Row], padded_size: int) -> Batch:
        """Prepare a batch, with snapshots of the mask's evolution only where they are shown."""
        has_pictures = any(row.image_index < max(self._plan.pictures, self._plan.log_images) for row in rows)
        frames = self._plan.frames if has_pictures else 2
        return prepare_batch(self._plan.method, self._classifier, rows, frames, padded_size)

    def _fit(self, batch: RowBatch) -> None:
        active = [row for row in batch.rows if not row.finished]
        batch_name = f"{self._fits:05}-{active[0].image_name}"
        self._fits += 1
        fit(batch, self.make_trainer(batch_name))
        if self._progress:
            self._progress.skip_iterations(batch, sum(batch.steps - row.iteration for row in active if row.finished))

    def _store_batch(self, coordinator: Coordinator, solution: Solution) -> None:
        """Evaluate and store the finite rows of a batch, and skip the images of the others."""
        rows, explanation, failures = solution.rows, solution.explanation, solution.failures
        for index, reason in failures.items():
            name = rows[index].image_name
            coordinator.skip(name, reason.removeprefix(f"{name}: "))
        finite = [row for index, row in enumerate(rows) if index not in failures]
        metrics = ["{}"] * len(finite)
        evaluated_with = [""] * len(finite)
        error: BaseException | None = None
        try:
            if finite:
                metrics = self._evaluate(finite, explanation)
                evaluated_with = [self._protocols.of(row.regions) for row in finite]
        except BaseException as raised:  # also a signal: the masks are stored, and evaluated when the run resumes
            error = raised
        judge(explanation, self._plan.verdict, [tables.metric_columns(values) for values in metrics])
        for index, row in enumerate(finite):  # one by one, so that a kill in between loses no row's pictures in the logger
            evaluation = {"metrics": metrics[index], "evaluated_with": evaluated_with[index]}
            self._store_row(coordinator, row, explanation.select([index]), explanation.batch_size, evaluation)
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise ValueError("out of memory in a metric: the masks are kept; a smaller batch_size needs less") from error
        if error:
            raise error

    def _evaluate(self, rows: list[Row], explanation: Explanation) -> list[str]:
        return self._evaluator.evaluate(rows, explanation.saliency, explanation.mask, explanation.value_normalised)

    def _store_row(
        self, coordinator: Coordinator, row: Row, explanation: Explanation, batch_size: int, evaluation: dict[str, str]
    ) -> None:
        """Write the files of one row, then add it to the coordinator."""
        entries = {
            **row.provenance,
            "computed_with": self._describe_computation(batch_size),
            "pictures": row.image_index < self._plan.pictures,
            **evaluation,
        }
        os.stat(self._plan.folder)  # a folder that somebody removed must not come back with a part of its rows
        store.save_row(self._plan.folder, explanation, 0, **entries)
        means = CurveMeans()
        means.add(explanation.curves)
        is_logged = bool(self._plan.loggers) and row.image_index < self._plan.log_images
        logged = replace(explanation, method=None) if is_logged else None  # a method need not pass to another process
        coordinator.add_row(tables.row_values(explanation, 0) | entries, means.sums, logged)

    def _describe_computation(self, batch_size: int) -> str:
        """Return the versions, device and batch size that the bits of a row depend on."""
        versions = [f"{name} {version}" for name, version in summaries.package_versions().items()]
        threads = f"{torch.get_num_threads()} threads"
        return ", ".join([*versions, f"{self._classifier.device}", threads, f"batch {batch_size}"])


class ProgressCallback(SilentCallback):
    """Reports the progress of a fit, with the batch's mean score and area."""

    def __init__(self, coordinator: Coordinator):
        self._coordinator = coordinator
        self._last_report = 0.0
        self._images = 0.0  # since the last report
        self._iterations = 0  # of all rows of the batch

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._iterations = sum(row.iteration for row in _batch_of(module).rows)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        batch = _batch_of(module)
        last = [row.iteration - 1 for row in batch.rows]
        before, self._iterations = self._iterations, sum(last) + len(last)
        self._images += self._to_images(batch, self._iterations - before)
        if batch.paused or time.perf_counter() - self._last_report > REPORT_INTERVAL:
            p, area = (batch.history[term][last, range(len(last))].mean().item() for term in ("value", "area"))
            self._coordinator.report_progress(self._images, f"score {p:.3f} area {area:.3f}")
            self._last_report = time.perf_counter()  # reading the means waits for the device
            self._images = 0.0

    def skip_iterations(self, batch: RowBatch, iterations: int) -> None:
        """Count the iterations that rows left out by stopping early."""
        self._coordinator.report_progress(self._to_images(batch, iterations))

    def _to_images(self, batch: RowBatch, iterations: int) -> float:
        """Return iterations of single rows as a number of images."""
        names = [row.image_name for row in batch.rows]
        return iterations / batch.steps * len(set(names)) / len(names)


def check_metrics_of_model(metrics: Mapping[str, Metric], classifier: Classifier, output: Tensor) -> None:
    """Refuse metrics that do not apply to a network with this output (B,...), or whose options to its images."""
    for name, metric in metrics.items():
        check_network(name, metric.needs, classifier, classifier.task, output)
        check_limits(metric.function, f"metrics.{name}", preprocessing(classifier).crop)


def _batch_of(module: pl.LightningModule) -> RowBatch:
    assert isinstance(module, BatchLearner)
    return module.row_batch


def ignore(text: str) -> None:
    """Drop a warning: only rank 0 logs."""
