"""What is checked before, during and after the work of a run. Errors are ValueErrors of one sentence."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from mpx.data.items import Item
from mpx.metrics.base import check_task
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.evaluation import needs_annotations
from mpx.runs.folder import LOCK, clear
from mpx.runs.plan import RunPlan
from mpx.runs.shares import Share

log = logging.getLogger("mpx")


def check_metrics(plan: RunPlan, items: list[Item]) -> None:
    """Refuse metrics that do not apply to the task, and those that need annotations where no image has any."""
    for name, metric in plan.metrics.items():
        check_task(name, metric.needs, plan.task)
    if (needing := needs_annotations(plan.metrics)) and not any(item.regions for item in items):
        raise ValueError(
            f"metric={needing[0]} compares with where the class is, and dataset={plan.choices['dataset']} does not say: "
            "take dataset=imagenet, voc, coco, pets, cub or synthetic, or give dataset=images dataset.boxes=boxes.csv"
        )


def check_ray(plan: RunPlan, share: Share) -> None:
    """Refuse what does not go together with launch=ray."""
    if find_spec("ray") is None:
        raise ValueError("launch=ray needs Ray: pip install 'mpx[ray]'")
    count = plan.trainer_devices
    if count != "all" and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"trainer.devices={count!r} must be a number from 1, or all, with launch=ray")
    if plan.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={plan.device!r} must be auto, cpu or cuda with launch=ray, which chooses the GPU")
    if share.count > 1:
        raise ValueError(f"launch=ray is one command, and this is share {share}: leave out torchrun, srun and share=")
    if plan.parallel == "samples":
        raise ValueError("parallel=samples needs devices that work in step: give it trainer.devices=N without launch=ray")


def check_rows(coordinator: RunCoordinator) -> None:
    """Log which rows are made again because what they were made from has changed; refuse to mix rows of several versions."""
    for part, images in coordinator.changed.items():
        more = f" and {len(images) - 3} more" if len(images) > 3 else ""
        log.info(f"the {part} of {', '.join(images[:3])}{more} has changed: made again")
    if coordinator.other_versions and coordinator.remaining:
        raise ValueError(
            f"the rows in {coordinator.folder} were made with {coordinator.other_versions}, and the missing ones would be "
            f"with {coordinator.fingerprint.versions}: install the former, give another name=, or force=true to begin again"
        )


@contextmanager
def lost_folder_as_error(folder: Path) -> Iterator[None]:
    """Say that the folder is gone, where that is why a file could not be written."""
    cause = None
    try:
        yield
    except OSError as error:
        if (folder / LOCK).exists():
            raise
        cause = error
    if not (folder / LOCK).exists():
        if folder.is_dir():  # the last files made it anew
            clear(folder)
            with suppress(OSError):
                folder.rmdir()
        raise ValueError(
            f"{folder} was removed or moved while the run was at work: the same command begins again, or continues once the "
            "folder is back"
        ) from cause


def check_complete(plan: RunPlan, merged: RunCoordinator) -> None:
    """Log the skipped images; refuse a run without rows or with missing images."""
    for name, reason in merged.skipped.items():
        log.warning(f"skipped {name}: {reason}")
    images = len(merged.items)
    if missing := merged.count_missing():
        raise ValueError(f"{missing} of {images} images are still missing in {plan.folder}: run the command again")
    if not merged.table():
        raise ValueError(
            f"no image could be explained: all {images} were skipped, see {plan.folder / 'skipped.csv'}; "
            f"the first: {next(iter(merged.skipped.values()))}"
        )
