"""From a composed configuration to the plan of a run: every part built, every setting checked, before any work begins."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from mpx import config
from mpx.config_errors import warn_of_unread
from mpx.config_schema import to_plain
from mpx.data import datasets
from mpx.data.items import Item, named_items
from mpx.learning.method import Method
from mpx.metrics.base import Metric, as_metric
from mpx.models.classifier import Classifier, check_bands
from mpx.operators import describe, dotted_name, unwrap
from mpx.report import html
from mpx.runs.devices import find_device
from mpx.runs.plan import RunPlan
from mpx.runs.resume import RESUMABLE_KEYS, RESUMABLE_WITHOUT_DETERMINISM, load_config, to_command
from mpx.runs.tables import parse_number

# Trainer arguments that would average the gradients of different rows, or that device= and precision= set
MIXING_ARGUMENTS = ("accelerator", "strategy", "num_nodes", "plugins", "precision", "gradient_clip_val",
                    "accumulate_grad_batches", "deterministic", "benchmark")  # fmt: skip
ENDING_ARGUMENTS = ("min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "overfit_batches",
                    "fast_dev_run")  # fmt: skip
COMPARED_GROUPS = ("model", "explainer", "perturbation", "mask", "score", "gradient", "optimizer")  # as hyperparameters
NO_HYPERPARAMETERS = (*RESUMABLE_KEYS, *RESUMABLE_WITHOUT_DETERMINISM, "deterministic", "images", "pictures", "bands",
                      "frames")  # fmt: skip


def build_plan(
    cfg: DictConfig,
    folder: Path,
    choices: dict[str, str | None],
    overrides: list[str],
    axes: dict[str, str] | None = None,
) -> RunPlan:
    """Return the plan of a composed configuration. Raises ValueError, one sentence, for whatever is wrong with it.

    choices: configuration group -> chosen option; overrides: arguments of the command; axes: axis -> value of a sweep's
    job.
    """
    plain_config = to_plain(cfg)
    cfg = OmegaConf.create(plain_config)
    method = config.build_method(cfg)
    _check_settings(cfg, overrides)
    return RunPlan(
        folder=folder,
        method=method,
        list_items=partial(list_items, cfg, choices),
        build_classifier=partial(build_classifier, cfg),
        metrics=build_metrics(cfg),
        other_perturbations=build_other_perturbations(cfg),
        verdict=config.build(cfg.verdict, "verdict"),
        build_trainer=build_trainer(cfg),
        callbacks=_build_group(cfg, "callbacks", pl.Callback),
        loggers=_build_group(cfg, "logger", Logger),
        write_report=html.write_report,
        task=config.build_task(cfg.task),
        target=plain_config["target"],
        device=cfg.device,
        trainer_devices=plain_config["trainer"]["devices"],
        launch=plain_config.get("launch"),
        share=cfg.share,
        parallel=cfg.parallel,
        threads=cfg.threads,
        deterministic=cfg.deterministic,
        batch_size=_batch_size(cfg),
        force=cfg.force,
        pictures=_picture_count(cfg),
        log_images=cfg.log_images,
        frames=cfg.frames,
        sufficient_share=cfg.sufficient_share,
        objective=cfg.objective,
        config=plain_config,
        choices=choices,
        overrides=overrides,
        hyperparameters=_hyperparameters(cfg, choices, axes or {}),
        command=to_command(overrides),
        rebuild=partial(build_plan, cfg, folder, choices, overrides, axes),
    )


def compose_plan(*overrides: str, folder: Path = Path("outputs")) -> RunPlan:
    """Return the plan of command line overrides."""
    return plan_of(config.compose(*overrides, choices=True), folder)


def plan_of(cfg: DictConfig, folder: Path, name: str | None = None) -> RunPlan:
    """Return the plan of a configuration with its node `hydra`. name: of the run; None: that of the configuration."""
    overrides = list(cfg.hydra.overrides.task)
    warn_of_unread(cfg, overrides)
    if name is not None:
        cfg = cfg.copy()
        cfg.name = name
        overrides = [f"name={name}", *(override for override in overrides if not override.startswith("name="))]
    return build_plan(cfg, folder, dict(cfg.hydra.runtime.choices), overrides)


def stored_parts(folder: Path) -> tuple[Method, Classifier, list[Item], Any]:
    """Return the method, the classifier, the images and `target=` of the run in a folder."""
    cfg = OmegaConf.create(load_config(folder))
    choices: dict[str, str | None] = {"dataset": "images"}  # two sources were refused when the run began
    return config.build_method(cfg), build_classifier(cfg, find_device(cfg.device)), list_items(cfg, choices), cfg.target


def list_items(cfg: DictConfig, choices: dict[str, str | None]) -> list[Item]:
    """Return the images that a run explains, in order."""
    if cfg.images is None:
        return named_items(config.build(cfg.dataset, "dataset"))[: cfg.limit]
    if choices["dataset"] not in ("sample", "images"):
        raise ValueError(f"images={cfg.images} and dataset={choices['dataset']} name two sources: give one of them")
    files = to_plain(cfg)["images"]
    files = files if isinstance(files, list) else [files]
    if not all(isinstance(file, str) for file in files):
        raise ValueError(f"images={cfg.images} must be a file, a folder, a glob or a list of these")
    return datasets.images(files, cfg.dataset.get("boxes"))[: cfg.limit]


def build_classifier(cfg: DictConfig, device: torch.device) -> Classifier:
    """Return the model on its device. Weights drawn at random are the same in every process and when a run resumes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        classifier = config.build(cfg.model, "model")
        if not isinstance(classifier, Classifier):
            raise ValueError(f"model: {cfg.model._target_} returned {describe(classifier)}: it must return a Classifier")
        classifier = classifier.to(device).with_task(config.build_task(cfg.task))
    if cfg.bands is not None:
        classifier.bands = check_bands(to_plain(cfg)["bands"], classifier.channels)
    return classifier


def build_metrics(cfg: DictConfig) -> dict[str, Metric]:
    """Return the metrics that finished masks are evaluated with, by name."""
    return {name: as_metric(function).if_installed(name) for name, function in _build_group(cfg, "metrics").items()}


def _build_group(cfg: DictConfig, group: str, base: type = object) -> dict[str, Any]:
    """Return the parts of a node whose keys are names. Classes must derive from `base`; functions are called later."""
    parts = {name: config.build(node, f"{group}.{name}") for name, node in config.named_nodes(cfg, group).items()}
    for name, part in parts.items():
        kind = unwrap(part)
        if isinstance(kind, type) and not issubclass(kind, base):
            raise ValueError(f"{group}.{name}: {dotted_name(kind)} must derive from {dotted_name(base)}")
    return parts


def build_other_perturbations(cfg: DictConfig) -> dict[str, Callable[..., Any]]:
    """Return the perturbations, besides the method's own, under which metrics evaluate a mask, by name."""
    names = cfg.other_perturbations if cfg.other_perturbations is not None else []
    if not OmegaConf.is_list(names):
        raise ValueError(
            f"other_perturbations={names!r} must be a list of perturbations, e.g. other_perturbations=[mean_color,noise]"
        )
    return config.other_perturbations(names)


def build_trainer(cfg: DictConfig) -> Callable[..., pl.Trainer]:
    """Return a function that makes a Trainer of the configuration and of further arguments.

    Each call makes the Trainer's callbacks, profilers and other parts anew: no state passes from one batch to the next.
    """
    _check_trainer(cfg)
    node = OmegaConf.create({key: value for key, value in to_plain(cfg)["trainer"].items() if key != "devices"})
    config.build(node, "trainer")
    return partial(_make_trainer, node)


def _make_trainer(node: DictConfig, **arguments: Any) -> pl.Trainer:
    trainer = config.build(node, "trainer")
    callbacks = [*(trainer.keywords.get("callbacks") or ()), *(arguments.pop("callbacks", None) or ())]
    return trainer(**arguments, callbacks=callbacks)


def _check_trainer(cfg: DictConfig) -> None:
    for key in MIXING_ARGUMENTS:
        if key in cfg.trainer:
            raise ValueError(
                f"trainer.{key} would mix rows or devices: leave it out. device= and precision= choose these, "
                "trainer.devices=N shares the images out, parallel=samples the random samples"
            )
    for key in ENDING_ARGUMENTS:
        if key in cfg.trainer:
            raise ValueError(f"trainer.{key} would end the optimization at another iteration than steps=: leave it out")
    if cfg.trainer.max_epochs != 1:
        raise ValueError(f"trainer.max_epochs={cfg.trainer.max_epochs} must be 1: steps= sets the number of iterations")


def _check_settings(cfg: DictConfig, overrides: list[str]) -> None:
    if cfg.images is not None and "dataset=sample" in overrides:  # else it is the default, which images= replaces
        raise ValueError(f"images={cfg.images} and dataset=sample name two sources: give one of them")
    if cfg.target == []:
        raise ValueError('target=[] names no class: give "top1", "label", an index or a class name')
    for key, minimum in (("limit", 1), ("log_images", 0), ("frames", 2)):
        if cfg[key] is not None and cfg[key] < minimum:
            raise ValueError(f"{key}={cfg[key]} must be at least {minimum}")
    if not 0 <= cfg.sufficient_share <= 1:
        raise ValueError(f"sufficient_share={cfg.sufficient_share} must be from 0 to 1")
    parts = Path(cfg.name).parts
    if not parts or ".." in parts or cfg.name.startswith("/"):
        raise ValueError(f"name={cfg.name!r} must be the name of a folder below outputs/")
    if cfg.parallel not in ("rows", "samples"):
        raise ValueError(f"parallel={cfg.parallel!r} must be rows or samples")
    if cfg.parallel == "samples" and cfg.get("explainer"):
        raise ValueError("parallel=samples divides a step's random samples, and an explainer has none: set parallel=rows")
    if cfg.parallel == "samples" and cfg.get("stop"):
        raise ValueError("parallel=samples runs all devices on the same rows for all steps: set stop=null or parallel=rows")


def _batch_size(cfg: DictConfig) -> int | str:
    size = cfg.batch_size
    if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"batch_size={size!r} must be a whole number, at least 1, or auto")
    return size


def _picture_count(cfg: DictConfig) -> float:
    images = {"all": math.inf, "none": 0}.get(cfg.pictures, cfg.pictures)
    if isinstance(images, bool) or not (isinstance(images, int) or images == math.inf) or images < 0:
        raise ValueError(f"pictures={cfg.pictures!r} must be a number of images, all or none")
    return images


def _hyperparameters(
    cfg: DictConfig, choices: dict[str, str | None], axes: dict[str, str]
) -> dict[str, int | float | str | bool]:
    """Return what loggers compare runs by, flat and short: a sweep's axes, else all choices."""
    if axes:
        numbers = {axis: parse_number(value) for axis, value in axes.items()}
        return {axis: value if math.isnan(numbers[axis]) else numbers[axis] for axis, value in axes.items()}
    values: dict[str, Any] = {key: value for key, value in choices.items() if value is not None and key in COMPARED_GROUPS}
    for part in ("perturbation", "mask"):
        for key, value in cfg[part].items():
            if not key.startswith("_") and key not in cfg and value is not None:
                values[f"{part}.{key}"] = str(value)
    for key, value in to_plain(cfg).items():
        if not isinstance(value, dict) and value is not None and key not in NO_HYPERPARAMETERS:
            values[key] = value if isinstance(value, (int, float)) else str(value)
    return values
