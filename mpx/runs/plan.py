"""A run's plan: every part and setting of one run, built and checked once from its configuration (mpx.config_plan)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from mpx.data.items import Item
from mpx.learning.method import Method
from mpx.metrics.base import Metric
from mpx.models.classifier import Classifier
from mpx.tasks.base import Task

BATCH_SIZES = {"cpu": 16}  # batch_size=auto by device type; on a GPU AUTO_GPU, halved until it fits
AUTO_GPU = 256


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The parts and settings of one run. A pickled plan is its plain configuration; unpickling builds the parts anew."""

    folder: Path

    # parts
    method: Method
    list_items: Callable[[], list[Item]]  # the images to explain, in order; reads file names only
    build_classifier: Callable[[torch.device], Classifier]
    metrics: dict[str, Metric]  # by name
    other_perturbations: dict[str, Callable[..., Any]]  # name -> perturbation, for metrics that compare perturbations
    verdict: "partial[str]"  # mpx.verdicts.row_verdict with its thresholds
    build_trainer: Callable[..., pl.Trainer]  # keyword arguments of a Trainer are added to those of the configuration
    callbacks: dict[str, Callable[..., pl.Callback]]  # name -> class with its options bound; each batch makes its own
    loggers: dict[str, Callable[..., Logger]]  # name -> class with its options bound, except where it writes

    write_report: Callable[[Path], Path]  # folder -> report.html; reports read folders, so runs know none of their code

    # what is explained
    task: Task
    target: int | str | list[int | str]

    # devices and workers
    device: str  # auto, cpu, cuda, cuda:N or mps
    trainer_devices: int | str | list[int]  # a number of devices, "all" GPUs, or indices of GPUs
    launch: dict[str, Any] | None  # arguments of ray.init, where the workers are on a Ray cluster
    share: str  # auto, array, or index/count
    parallel: str  # rows or samples
    threads: int | None
    deterministic: bool
    batch_size: int | str  # rows, or "auto"

    # output
    force: bool  # removes what is in the folder first
    pictures: float  # number of images with panels and animations; math.inf for all
    log_images: int
    frames: int
    sufficient_share: float
    objective: str | None

    # configuration
    config: dict[str, Any]  # the resolved configuration without Hydra's node: what the folder stores
    choices: dict[str, str | None]  # configuration group -> chosen option
    overrides: list[str]  # arguments of the command
    hyperparameters: dict[str, int | float | str | bool]  # flat, for loggers: a sweep's axes, else what was chosen
    command: str
    rebuild: Callable[[], "RunPlan"] = field(repr=False)

    def __reduce__(self) -> tuple[Callable[[], "RunPlan"], tuple[()]]:
        """Pickle the plain configuration, so that no part has to be picklable."""
        return self.rebuild, ()

    def batch_size_on(self, device_type: str) -> int:
        """Return the number of rows that are optimized together on a device of this type."""
        return self.batch_size if isinstance(self.batch_size, int) else BATCH_SIZES.get(device_type, AUTO_GPU)

    @property
    def learnt_with(self) -> str:
        """The explainer, or the perturbation that masks are learnt with: the name that metrics are reported under."""
        return self.choices.get("explainer") or self.choices.get("perturbation") or ""

    @property
    def subject(self) -> str:
        """The network and the method, for the line that a run begins with."""
        model, choices = self.config["model"], self.choices
        names = (model.get("name"), model.get("network"), choices["model"])
        network = next(name for name in names if isinstance(name, str))
        chosen = next((key for key in ("explainer", "experiment") if choices.get(key)), None)
        if chosen:
            method = f"{chosen}={choices[chosen]}"
        else:
            method = f"game={self.method.game} perturbation={choices['perturbation']} mask={choices['mask']}"
        return f"{network}, {method}" + ("" if self.method.explainer else f", {self.method.steps} steps")
