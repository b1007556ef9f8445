"""The main job: one session in a run's folder. It locks the folder, starts the workers, and writes results."""

import logging
import math
import os
import tempfile
import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mpx.data.items import fingerprint
from mpx.devices import find_device
from mpx.runs import terminal
from mpx.runs.checks import check_complete, check_metrics, check_ray, check_rows, lost_folder_as_error
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.devices import single_worker, thread_count, worker_devices
from mpx.runs.distributed import SampleGroup, find_group
from mpx.runs.evaluation import needs_annotations
from mpx.runs.fingerprint import Fingerprint
from mpx.runs.folder import claim_folder, clear
from mpx.runs.launch import run_processes
from mpx.runs.loggers import RunLoggers
from mpx.runs.plan import RunPlan
from mpx.runs.reevaluation import evaluate_area_sums, reevaluate
from mpx.runs.results import write_results
from mpx.runs.resume import check_config, input_files
from mpx.runs.shares import Share, find_share
from mpx.runs.store import FAILED
from mpx.runs.worker import work
from mpx.verdicts import verdict_sentences

log = logging.getLogger("mpx")
PRINTED_ROWS = 20  # of the table at the end


@dataclass(frozen=True)
class Session:
    """One process at work in a run's folder."""

    plan: RunPlan
    share: Share
    devices: list[torch.device]  # one for each worker that this process starts
    group: SampleGroup | None
    coordinator: RunCoordinator
    start: float

    @property
    def folder(self) -> Path:
        return self.plan.folder


def run(plan: RunPlan) -> dict[str, Any] | None:
    """Explain the images of a plan, or continue; return summary.json, or None if other shares are still at work.

    Raises ValueError or OSError if that is impossible, and Stopped after a signal; finished rows stay.
    """
    share = find_share(plan.share)
    if plan.launch is None:
        devices = worker_devices(plan.device, plan.trainer_devices, share)
    else:
        check_ray(plan, share)
        devices = [find_device("cpu" if plan.device == "cpu" else "auto")]  # here, for the metrics of finished rows
    group = find_group(plan.parallel, plan.method.samples, share, devices)
    if group and group.rank:  # under torchrun only rank 0 opens the folder
        with _single_worker(plan, share):
            work(None, plan, devices[0], group)
        return None
    index, count = (0, 1) if group else (share.index, share.count)
    items = plan.list_items()
    check_metrics(plan, items)
    if plan.force and count > 1:
        raise ValueError("force=true would remove the rows of other shares: give another name=, or remove the folder")
    with claim_folder(plan.folder, index, count, partial(_prepare_folder, plan)):
        loggers = RunLoggers(plan.folder, plan.loggers)
        coordinator = RunCoordinator(plan.folder, items, index, count, loggers, Fingerprint.of(plan))
        check_rows(coordinator)
        session = Session(plan, share, devices, group, coordinator, time.perf_counter())
        log.info(f"{plan.command}\n{_beginning(session)}")
        with closing(loggers), lost_folder_as_error(plan.folder):
            merged, summary = _work_and_write_results(session)
        report = _write_report(plan) if merged and merged.table() and plan.pictures else ""
    if merged is None or summary is None:
        log.info(f"share {share} is done; the results are written when all shares are done")
        return None  # even with skipped images: torchrun and srun end all processes when one ends with another code than 0
    check_complete(plan, merged)
    _log_results(plan, merged, summary, report)
    return summary


def _beginning(session: Session) -> str:
    """Return what is done in this session on what, and how much of it is done already."""
    coordinator, plan = session.coordinator, session.plan
    total, remaining = len(coordinator.share), len(coordinator.remaining)
    if remaining == total:
        share = coordinator.describe(total).partition(" images")[2]
        return f"explaining {total} {'image' if total == 1 else 'images'}{share} in {plan.folder}: {plan.subject}"
    done = f"{coordinator.describe(total - remaining)} are done in {plan.folder}"
    return f"{done}; explaining the other {remaining}: {plan.subject}" if remaining else done


def objective(plan: RunPlan, summary: dict[str, Any] | None) -> float | None:
    """Return the number that a sweeper minimises (objective=), read from a run's summary."""
    if summary is None:
        return None
    numbers = {key: value["mean"] for key, value in summary.items() if isinstance(value, dict) and "mean" in value}
    numbers |= {name: metric["value"] for name, metric in summary["metrics"].items()}
    if plan.objective is None:
        p, area = numbers["value_normalised"], numbers["area"]
        if p is None:
            return math.nan
        return (1 - p if plan.method.game == "preservation" else p) + area
    if plan.objective not in numbers:
        raise ValueError(f"objective={plan.objective!r} is not a number of this run: choose one of {', '.join(numbers)}")
    return numbers[plan.objective]


def _prepare_folder(plan: RunPlan, joins: bool) -> None:
    if plan.force:
        clear(plan.folder)
    check_config(plan, joins)
    if not joins:
        (plan.folder / FAILED).unlink(missing_ok=True)


def _single_worker(plan: RunPlan, share: Share) -> AbstractContextManager[None]:
    return single_worker(thread_count(plan.threads, 1, share, plan.deterministic), plan.deterministic)


def _work_and_write_results(session: Session) -> tuple[RunCoordinator | None, dict[str, Any] | None]:
    """Explain and evaluate the missing rows and write the results, after a failure or a stop those of finished rows."""
    coordinator = session.coordinator
    try:
        # the other ranks of torchrun wait for a message even if no row is left
        if coordinator.remaining or session.group and len(session.devices) == 1:
            _explain(session)
        with _single_worker(session.plan, session.share):
            reevaluate(session.plan, coordinator, session.devices[0])
    except BaseException as error:
        if coordinator.table() and not isinstance(error, OSError):  # a full disk takes no results
            _write_results(session, stopped=True)
        raise
    return _write_results(session, stopped=False)


def _explain(session: Session) -> None:
    """Explain the remaining images: here on one device, in processes on several, or on a Ray cluster."""
    plan, devices, group = session.plan, session.devices, session.group
    if plan.launch is not None:
        from mpx.runs.ray_cluster import run_on_ray  # it imports Ray

        run_on_ray(plan, session.coordinator)
        return
    session.coordinator.start(1 if group else len(devices))
    if len(devices) == 1:
        with _single_worker(plan, session.share):
            work(session.coordinator, plan, devices[0], group)
        return
    threads = thread_count(plan.threads, len(devices), session.share, plan.deterministic)
    with tempfile.TemporaryDirectory() as rendezvous:
        groups = [group.with_rank(rank, rendezvous) if group else None for rank in range(len(devices))]
        run_processes(work, [(plan, *pair) for pair in zip(devices, groups)], threads, session.coordinator)


def _write_results(session: Session, stopped: bool) -> tuple[RunCoordinator | None, dict[str, Any] | None]:
    """Write the results of the whole run; None while other shares are at work."""
    plan, coordinator = session.plan, session.coordinator
    coordinator.close()
    summary = None
    os.stat(session.folder)  # it may have been removed
    if removed := coordinator.drop_removed_rows():
        log.warning(f"{removed} rows were removed from {session.folder} while the run was at work")
    with coordinator.merge_shares(stopped) as merged:
        if merged:
            area_sums = []
            if not stopped:
                with _single_worker(plan, session.share):
                    area_sums = evaluate_area_sums(plan, merged, session.devices[0])
            summary = write_results(plan, merged, _protocol(session, stopped), area_sums)
    if stopped:
        done = coordinator.describe(len(coordinator.share) - coordinator.count_missing())
        log.error(f"{done} are done and kept in {session.folder}")
    return merged, summary


def _protocol(session: Session, stopped: bool) -> dict[str, Any]:
    """Return the protocol of summary.json: how its numbers were computed."""
    plan = session.plan
    return {
        "command": plan.command,
        "game": plan.method.game,
        "learnt_with": plan.learnt_with,
        "stopped": stopped,
        "images": fingerprint(session.coordinator.items, input_files(plan.config)),
        "session_seconds": round(time.perf_counter() - session.start, 1),
        "value": plan.task.quantity,
        "support": plan.task.support_unit,
        "reference": {key: plan.config[key] for key in ("model", "task", "perturbation")},
        "value_normalised": "support, 1 on the image and 0 on the fully perturbed one, no augmentation, "
        f"reference and mask's perturbation: {plan.choices['perturbation']}",
    }


def _write_report(plan: RunPlan) -> str:
    """Write report.html; return the line that says where it is, or an empty string after a warning."""
    try:
        return f"report    {plan.write_report(plan.folder)}\n"
    except Exception as error:  # a full disk, or an error in the report: the run is complete without it
        log.warning(f"report.html could not be written: {type(error).__name__}: {error}")
        return ""


def _log_results(plan: RunPlan, merged: RunCoordinator, summary: dict[str, Any], report: str) -> None:
    """Log the table, the metrics, and where the files are."""
    table = merged.table()
    more = f"\n... {len(table) - PRINTED_ROWS} more" if len(table) > PRINTED_ROWS else ""
    log.info(terminal.format_rows(table[:PRINTED_ROWS], plan.task) + more)
    for sentence in verdict_sentences(table, plan.method, plan.task):
        log.warning(sentence)
    if plan.metrics:
        log.info("\n" + terminal.format_metrics(summary["metrics"], len(table)))
    empty = [
        name
        for name in needs_annotations(plan.metrics)
        if not any(row[column] is not None for row in table for column in row if column.startswith(name))
    ]
    if empty:
        labels = sorted({repr(label) for item in merged.items for label in item.regions})
        log.warning(
            f"{', '.join(empty)}: no image has a region of the class that is explained; there are regions of "
            f"{', '.join(labels[:5])}: give target=label, and labels that are classes of the model"
        )
    if "area_sums" in summary:
        sums = terminal.format_metrics(summary["area_sums"], summary["smallest_area"]["rows"])
        log.info(f"\nthe sum of the masks of all areas:\n{sums}")
    folder = plan.folder
    curves = f"\ncurves    tensorboard --logdir {folder}" if "tensorboard" in plan.loggers else ""
    pairs = f"  {folder}/pairs" if plan.task.is_paired else ""
    animations = "" if plan.method.explainer else f"  {folder}/evolution"
    pictures = f"pictures  {folder}/panels{pairs}{animations}\n" if plan.pictures else ""
    log.info(f"\n{report}{pictures}numbers   {folder}/results.csv{curves}")
