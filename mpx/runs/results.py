"""The files about the whole run (tables, skipped images, summary.json), and the entries of loggers."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mpx.metrics.areas import SMALLEST_COLUMNS, smallest_area_rows
from mpx.metrics.summary import describe
from mpx.runs import files, summaries, tables
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.evaluation import summarise_metrics
from mpx.runs.folder import remove_partial_files
from mpx.runs.loggers.entries import code_markdown
from mpx.runs.plan import RunPlan
from mpx.runs.resume import to_yaml


def write_results(
    plan: RunPlan, coordinator: RunCoordinator, protocol: dict[str, Any], area_sums: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write all files about the whole run, and return the summary.

    coordinator: of all shares; area_sums: lines of area_sums.csv.
    """
    folder, table = coordinator.folder, coordinator.table()
    skipped = sorted(coordinator.skipped.items(), key=lambda pair: coordinator.image_indices[pair[0]])
    coordinator.write_table()
    tables.write_skipped(folder / "skipped.csv", skipped)
    summary = summaries.summarise_rows(table, len(skipped), coordinator.count_missing(), protocol)
    summary["computed_with"] = coordinator.computed_with
    summary["metrics"] = summarise_metrics(plan.metrics, table)
    summary["metric_protocols"] = {name: metric.protocol for name, metric in plan.metrics.items()}
    if area_sums:
        columns = tuple(column for column in area_sums[0] if "@" not in column)
        tables.write_csv(folder / "area_sums.csv", area_sums, columns)
        summary["area_sums"] = summarise_metrics(plan.metrics, area_sums)
    if table and table[0]["requested_area"]:
        summary["smallest_area"] = _write_smallest_areas(plan, coordinator, table)
    files.write_json(folder / "summary.json", summary)
    remove_partial_files(folder)
    _log_run(plan, coordinator, table, summary)
    for part in (folder / "parts").glob("*-of-*.*"):
        part.unlink()
    with suppress(OSError):  # the user may have files of their own in it
        (folder / "parts").rmdir()
    return summary


def _write_smallest_areas(plan: RunPlan, coordinator: RunCoordinator, table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write smallest_areas.csv: for each image and class the smallest area that suffices; return the areas' statistics."""
    best = smallest_area_rows(table, plan.sufficient_share, plan.method.game, plan.task)
    tables.write_csv(coordinator.folder / "smallest_areas.csv", best, SMALLEST_COLUMNS)
    sufficient = [row for row in best if row["smallest_area"]]
    smallest_areas = [row["smallest_area"] for row in sufficient]
    statistics = describe(smallest_areas, [row["image"] for row in sufficient])
    return {"sufficient_share": plan.sufficient_share, "rows": len(best), **statistics}


def _log_run(plan: RunPlan, coordinator: RunCoordinator, table: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    texts = {"config": code_markdown(to_yaml(plan.config)), "command": code_markdown(plan.command)}
    coordinator.loggers.log_hyperparameters(plan.hyperparameters)
    coordinator.loggers.log_summary(table, coordinator.means.means(), summary["metrics"], texts)
