"""The main job: one session in a run's folder. It holds the folder, finds what is done, starts the workers, and sums up."""

import logging
import math
import shlex
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mpx import config
from mpx.data import datasets
from mpx.data.items import Item, fingerprint
from mpx.report import html
from mpx.runs import devices as shares
from mpx.runs import evaluation as measure
from mpx.runs import launch as workers
from mpx.runs import tables, terminal
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.folder import clear, held
from mpx.runs.resume import keep
from mpx.runs.signals import Stopped
from mpx.runs.worker import work

log = logging.getLogger("mpx")
PRINTED = 20  # rows of the table at the end
# keys that may differ when a run is continued; those of the second line only where bits may differ
RESUMABLE_KEYS = ("name", "force", "limit", "trainer.devices", "share", "log_images", "logger", "enough", "metrics", "other_perturbations", "objective")
RESUMABLE_WITHOUT_DETERMINISM = ("batch_size", "device", "threads", "parallel", "compile")


def run(cfg: DictConfig, folder: Path, choices: dict, overrides: list[str], varied: dict[str, str]) -> dict | None:
    """Explains the dataset of a composed config into `folder`, or goes on doing so; returns its summary.json, None where
    other shares still work.

    varied: of a sweep's job, its place on the axes.

    Raises ValueError or OSError where it cannot, and Stopped where a signal came; all leave what is done.
    """
    _check(cfg)
    share = shares.share(cfg.share)
    where = shares.devices(cfg.device, OmegaConf.to_container(cfg.trainer, resolve=True)["devices"], share)
    group = _group(cfg, share, where)
    if group and group.rank:  # of torchrun: the leader alone has a session
        _work_here(None, cfg, folder, share, where[0], group)
        return None
    index, count = (0, 1) if group else (share.index, share.count)
    items = images(cfg, choices)
    needy = [name for name, metric in config.metrics(cfg).items() if "annotations" in metric.needs]
    if needy and not any(item.regions for item in items):
        raise ValueError(
            f"metric={needy[0]} compares with where the class is, and dataset={choices['dataset']} does not say: take "
            "dataset=imagenet, voc, coco, pets, cub or synthetic, or give boxes (dataset=images dataset.boxes=boxes.csv)"
        )
    free = RESUMABLE_KEYS + (() if cfg.deterministic else RESUMABLE_WITHOUT_DETERMINISM)
    if cfg.force and count > 1:
        raise ValueError("force=true would remove what other shares have done: give another name=, or remove the folder")
    with held(folder, index, count, partial(_keep, cfg, folder, free, overrides)):
        session = RunCoordinator(folder, items, index, count)
        command = shlex.join(["mpx", *overrides])
        log.info(f"{command}\n{session.counted(len(session.mine) - len(session.todo))} are done in {folder}")
        sum_up = partial(_sum_up, session, cfg, choices, varied, command, time.perf_counter(), where[0])
        try:
            if session.todo or group and len(where) == 1:  # of torchrun: the others wait to hear that there is nothing
                _explain(session, cfg, folder, share, where, group)
            with _alone(cfg, share):
                measure.again(session, cfg, where[0])
        except (Stopped, ValueError):
            if session.rows:
                sum_up(stopped=True)
            raise
        whole = sum_up(stopped=False)
        report = _report(folder) if whole and whole.rows and config.pictures(cfg) else ""
    if whole is None:
        log.info(f"share {share} is done; it is summed up when all are")
        return None  # who sums up tells what was skipped: torchrun and srun end all their processes when one ends otherwise
    for name, reason in whole.skipped.items():
        log.warning(f"skipped {name}: {reason}")
    if not whole.rows:
        raise ValueError(
            f"no image could be explained: all {len(items)} were skipped, see {folder / 'skipped.csv'}; "
            f"the first: {next(iter(whole.skipped.values()))}"
        )
    if whole.missing():
        raise ValueError(f"{whole.missing()} of {len(items)} images are still missing in {folder}: give the command again")
    table = whole.table()
    log.info(terminal.format_rows(table[:PRINTED]) + f"\n... {len(table) - PRINTED} more" * (len(table) > PRINTED))
    if config.metrics(cfg):
        log.info("\n" + terminal.format_metrics(whole.said["metrics"]))
    if empty := [n for n in needy if not any(row[k] is not None for row in table for k in row if k.startswith(n))]:
        labels = sorted({repr(label) for item in items for label in item.regions})
        log.warning(
            f"{', '.join(empty)}: no picture shows a region of the class that is explained; there are regions of "
            f"{', '.join(labels[:5])}: give target=label, and labels that are classes of the model"
        )
    if "summed" in whole.said:
        log.info("\nthe sum of the masks of all areas:\n" + terminal.format_metrics(whole.said["summed"]))
    pictures = f"pictures  {folder}/panels  {folder}/evolution\n" if config.pictures(cfg) else ""
    log.info(f"\n{report}{pictures}numbers   {folder}/results.csv\ncurves    tensorboard --logdir {folder}")
    return whole.said


def objective(cfg: DictConfig, said: dict | None) -> float | None:
    """What a sweeper makes small (objective=...), of a run's summary."""
    if said is None:
        return None
    known = {k: v["mean"] for k, v in said.items() if isinstance(v, dict) and "mean" in v}
    known |= {name: metric["value"] for name, metric in said["metrics"].items()}
    if cfg.objective is None:
        p, area = known["p_normalised"], known["area"]
        if p is None:
            return math.nan
        return (1 - p if cfg.game == "preservation" else p) + area
    if cfg.objective not in known:
        raise ValueError(f"objective={cfg.objective!r} is not a number of this run: choose one of {', '.join(known)}")
    return known[cfg.objective]


def _keep(cfg: DictConfig, folder: Path, free: tuple, overrides: list[str], joins: bool) -> None:
    if cfg.force:
        clear(folder)
    keep(cfg, folder, free, overrides, joins)


def _sum_up(
    session: RunCoordinator, cfg, choices: dict, varied: dict, command: str, start: float, where, stopped: bool
) -> RunCoordinator | None:
    """Writes what is said of the whole run; None where other shares still work."""
    protocol = {
        "command": command,
        "game": cfg.game,
        "stopped": stopped,
        "images": fingerprint(session.items),
        "session_seconds": round(time.perf_counter() - start, 1),
        "p_normalised": "(p_after-p_reference)/(p_before-p_reference), softmax, no augment, "
        f"reference and mask's operator: {choices['perturbation']}",
    }
    texts = {"config": f"```yaml\n{OmegaConf.to_yaml(cfg, resolve=True)}\n```", "command": f"```\n{command}\n```"}
    measured = partial(measure.summary, config.metrics(cfg), choices["explainer"] or choices["perturbation"])
    with session.whole(stopped) as whole:
        if whole:
            with _alone(cfg, shares.share(cfg.share)):
                summed = () if stopped else measure.summed(whole, cfg, where)
            axes = hparams(cfg, choices, varied)
            whole.said = whole.close(axes, texts, cfg.log_images, protocol, cfg.enough, measured, summed)
    if stopped:
        log.error(f"{session.counted(len(session.mine) - session.missing())} are done and kept in {session.folder}")
    return whole


def _report(folder: Path) -> str:
    """Where report.html is, to be told."""
    try:
        return f"report    {html.write_report(folder)}\n"
    except Exception as error:  # a full disk, or a fault of its own: the run is whole without it
        log.warning(f"there is no report.html: {type(error).__name__}: {error}")
        return ""


def _check(cfg: DictConfig) -> None:
    """What is wrong with the config stops here, before anything is locked, loaded or started."""
    config.build_method(cfg)
    config.trainer(cfg)
    config.metrics(cfg)
    config.other_perturbations(cfg)
    for key, least in (("limit", 1), ("log_images", 0), ("frames", 2)):
        if cfg[key] is None and key != "limit" or cfg[key] is not None and cfg[key] < least:
            raise ValueError(f"{key}={cfg[key]} must be at least {least}")
    if cfg.enough is None or not 0 <= cfg.enough <= 1:
        raise ValueError(f"enough={cfg.enough} must be from 0 to 1")
    parts = Path(cfg.name or "").parts
    if not parts or ".." in parts or cfg.name.startswith("/"):
        raise ValueError(f"name={cfg.name!r} must be the name of a folder below outputs/")
    if cfg.parallel not in ("rows", "samples"):
        raise ValueError(f"parallel={cfg.parallel!r} must be rows or samples")
    config.pictures(cfg)
    config.batch_size(cfg, torch.device("cpu"))


def images(cfg: DictConfig, choices: dict) -> list[Item]:
    """What a run explains."""
    if cfg.images is None:
        return config.build(cfg.dataset, "dataset")[: cfg.limit]
    if choices["dataset"] not in ("sample", "images"):
        raise ValueError(f"images={cfg.images} and dataset={choices['dataset']} name two sources: give one of them")
    files = OmegaConf.to_container(cfg.images) if OmegaConf.is_list(cfg.images) else cfg.images
    if not all(isinstance(file, str) for file in (files if isinstance(files, list) else [files])):
        raise ValueError(f"images={cfg.images} must be a file, a folder, a glob or a list of these")
    return datasets.images(files, cfg.dataset.get("boxes"))[: cfg.limit]


def _group(cfg: DictConfig, share: shares.Share, where: list[torch.device]) -> workers.Group | None:
    """The ranks of parallel=samples, and which of them this process is; where it starts them itself, the leader."""
    if cfg.parallel == "rows":
        return None
    if cfg.get("explainer"):
        raise ValueError("parallel=samples shares out a search's samples, and an explainer has none: parallel=rows")
    if cfg.get("stop"):
        raise ValueError("parallel=samples runs all devices on the same rows to the end: stop=null, or parallel=rows")
    if share.count == 1 and len(where) > 1:
        group = workers.Group(0, tuple(where), len(where))
    elif share.launcher == "torchrun" and len(where) == 1:
        here = (torch.device("cuda", i) if where[0].type == "cuda" else where[0] for i in range(share.local_count))
        group = workers.Group(share.index, tuple(here), share.count)
    else:
        raise ValueError(
            "parallel=samples shares the samples of one batch out over devices: give it trainer.devices=N on one machine, "
            f"or torchrun with one device for each process (here: trainer.devices={len(where)}, share {share})"
        )
    group.samples(cfg.samples)
    return group


def _explain(session: RunCoordinator, cfg: DictConfig, folder: Path, share, where: list[torch.device], group) -> None:
    session.begin(1 if group else len(where))
    if len(where) == 1:
        _work_here(session, cfg, folder, share, where[0], group)
        return
    plain = OmegaConf.to_container(cfg, resolve=True)
    with tempfile.TemporaryDirectory() as meeting:
        groups = [group and group.of(rank, meeting) for rank in range(len(where))]
        jobs = [(plain, folder, device, group) for device, group in zip(where, groups)]
        workers.start(work, jobs, shares.threads(cfg.threads, len(where), share, cfg.deterministic), session)


def _work_here(session, cfg: DictConfig, folder: Path, share, where: torch.device, group) -> None:
    with _alone(cfg, share):
        work(session, cfg, folder, where, group)


@contextmanager
def _alone(cfg: DictConfig, share: shares.Share):
    """The threads and algorithms of a single worker, in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(shares.threads(cfg.threads, 1, share, cfg.deterministic))
    try:
        with shares.same_bits(cfg.deterministic):
            yield
    finally:
        torch.set_num_threads(before)


def hparams(cfg: DictConfig, choices: dict, varied: dict[str, str]) -> dict:
    """What TensorBoard compares by, flat and short: a sweep's axes (it shows the first five), else all that was chosen."""
    if varied:
        return {axis: value if math.isnan(tables.parse_number(value)) else float(value) for axis, value in varied.items()}
    groups = {
        k: v
        for k, v in choices.items()
        if v is not None and k in ("model", "explainer", "perturbation", "mask", "score", "gradient", "optimizer")
    }
    for part in ("perturbation", "mask"):
        options = {k: v for k, v in cfg[part].items() if not k.startswith("_") and k not in cfg and v is not None}
        groups |= {f"{part}.{k}": str(v) for k, v in options.items()}
    values = {k: v for k, v in OmegaConf.to_container(cfg, resolve=True).items() if not isinstance(v, dict)}
    kept = {k: v if isinstance(v, (int, float)) else str(v) for k, v in values.items() if v is not None}
    return groups | {
        k: v for k, v in kept.items() if k not in (*RESUMABLE_KEYS, *RESUMABLE_WITHOUT_DETERMINISM, "deterministic", "images", "pictures", "frames")
    }
