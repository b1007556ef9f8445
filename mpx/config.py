"""From the menu in configs/ to checked parts; besides, Hydra is imported by cli.py and sweeper.py alone.

A part is an operator with its options bound (a functools.partial). The function's signature is its schema: an unknown or
ill-typed option is refused when the part is built, not when it is first called. User errors are ValueErrors of one sentence.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mpx.config_errors import error_sentence, unknown_key, unused_weight
from mpx.config_schema import CONFIGS, SCHEMA, compose, groups, options
from mpx.errors import first_line, near
from mpx.learning.method import Method
from mpx.metrics.base import Metric, as_metric
from mpx.models.classifier import Classifier


def option(group: str, choice, **root) -> Callable:
    """One part by its name in configs/<group>/ (a callable is returned as it is); `root`: the root keys it may refer to."""
    if callable(choice):
        return choice
    if choice not in options(group):
        raise ValueError(
            f"{group}={choice!r} is not an option: choose one of {', '.join(options(group))}, or pass a function"
        )
    loaded = OmegaConf.load(CONFIGS / group / f"{choice}.yaml")
    if "_target_" in loaded:
        return build(OmegaConf.create({**root, group: loaded})[group], group)
    cfg = OmegaConf.merge(loaded, root)  # a file that owns a root key keeps its part one level down, e.g. regularizers.l1
    return build(next(node[choice] for node in cfg.values() if OmegaConf.is_dict(node)), group)


def build(node: DictConfig, name: str):
    """Instantiates one part, its options checked against its signature."""
    try:
        part = instantiate(node)
    except Exception as error:  # Hydra wraps whatever the target raised
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise cause from None
        if isinstance(cause, MissingMandatoryValue):
            key = cause.full_key
            raise ValueError(f"{key} has no value: give {key}=...") from None
        raise ValueError(f"{name}: {first_line(cause)}") from error
    if not isinstance(part, partial):
        return part
    _check_options(part, name)
    return partial(part.func, *part.args, **part.keywords)  # Hydra's own partial checks its target at every call


def _check_options(part: partial, name: str) -> None:
    parameters = inspect.signature(part.func).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in part.keywords.items():
        if key not in parameters:
            if open_ended:
                continue
            raise ValueError(f"{name}.{key} is not an option of {part.func.__name__}{near(key, parameters)}")
        wanted = parameters[key].annotation
        wanted = {"int": int, "float": float, "str": str, "bool": bool}.get(wanted, wanted)  # torch's are text
        kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
        if set(kinds) <= {int, float, str, bool, type(None)}:
            fits = type(value) in kinds or (type(value) is int and float in kinds)
            if not fits:
                allowed = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
                raise ValueError(f"{name}.{key}={value!r} must be of type {allowed}")


def build_method(cfg: DictConfig) -> Method:
    """The five operators, the game and the search that a composed config asks for."""
    check_keys(cfg)
    regularizers = {
        name: (number(cfg, f"lambda_{name}"), build(node, f"regularizers.{name}"))
        for name, node in (cfg.get("regularizers") or {}).items()
    }
    augments = {
        place: [
            build(node, f"{place}.{name}") for name, node in (cfg.get(place) or {}).items() if number(cfg, name)
        ]  # a strength of 0 turns an augment off
        for place in ("image_augmentations", "input_augmentations")
    }
    return Method(
        perturbation=build(cfg.perturbation, "perturbation"),
        mask=build(cfg.mask, "mask"),
        score=build(cfg.score, "score"),
        regularizers=regularizers,
        **augments,
        areas=tuple(cfg.area) if OmegaConf.is_list(cfg.area) else (cfg.area,),
        optimizer=build(cfg.optimizer, "optimizer"),
        **{key: build(cfg[key], key) if cfg.get(key) else None for key in ("explainer", "gradient", "scheduler", "stop")},
        **{key: cfg[key] for key in ("game", "dual_weight", "samples", "steps", "precision", "compile", "seed")},
    )


def method(experiment: str, *overrides: str) -> Method:
    """A published method, experiment=... of the command line, for explain(); overrides are written as there."""
    if experiment not in options("experiment"):
        raise ValueError(f"experiment={experiment!r} is not an option: choose one of {', '.join(options('experiment'))}")
    own = {field.name for field in fields(Method)} | {"area", "mask_size", "lr", "regularizer", "augment"}
    for override in overrides:
        key = re.split(r"[=.]", override.lstrip("+~"), maxsplit=1)[0]
        if key in {*SCHEMA, *groups()} - own:
            raise ValueError(f"{override}: {key} is no part of a method, but of how it is run: give it to explain()")
    try:
        return build_method(compose(f"experiment={experiment}", *overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(error_sentence(error)) from error


def metrics(cfg: DictConfig) -> dict[str, Metric]:
    """Return the metrics that finished masks are evaluated by, by name."""
    return {name: as_metric(build(node, f"metrics.{name}")) for name, node in (cfg.get("metrics") or {}).items()}


def other_perturbations(cfg: DictConfig) -> dict[str, Callable]:
    """Return the perturbations beside its own under which a mask is evaluated, by name."""
    names = cfg.other_perturbations if cfg.other_perturbations is not None else []
    if not OmegaConf.is_list(names) and not isinstance(names, list):
        raise ValueError(
            f"other_perturbations={cfg.other_perturbations!r} must be a list of perturbations, e.g. "
            "other_perturbations=[mean_color,noise]"
        )
    return {name: option("perturbation", name) for name in names}


def number(cfg: DictConfig, key: str) -> float:
    value = cfg.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{key}={value!r} must be a number, 0 or larger")
    return value


def classifier(cfg: DictConfig, where: torch.device) -> Classifier:
    """The model on its device. Weights that are drawn are the same in every process, and when a run goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build(cfg.model, "model").to(where)


MIXES = ("accelerator", "strategy", "num_nodes", "plugins", "precision", "gradient_clip_val", "accumulate_grad_batches",
         "deterministic", "benchmark")  # fmt: skip
ENDS = ("min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "overfit_batches", "fast_dev_run")


def trainer(cfg: DictConfig) -> Callable:
    """A maker of Trainers; what depends on the worker (solver.workers) is given to it."""
    for key in MIXES:
        if key in cfg.trainer:
            raise ValueError(
                f"trainer.{key} would mix rows or devices, leave it out: device= and precision= choose these, "
                "trainer.devices=N shares the images out, parallel=samples the random samples"
            )
    for key in ENDS:
        if key in cfg.trainer:
            raise ValueError(f"trainer.{key} would end the search elsewhere than steps= says: leave it out")
    if cfg.trainer.max_epochs != 1:
        raise ValueError(f"trainer.max_epochs={cfg.trainer.max_epochs} must be 1: steps= sets the number of iterations")
    node = OmegaConf.create({k: v for k, v in cfg.trainer.items() if k != "devices"})
    return build(node, "trainer")


def batch_size(cfg: DictConfig, where: torch.device) -> int:
    """Rows at once; auto is where halving for want of memory starts from."""
    size = {"auto": 16 if where.type == "cpu" else 256}.get(cfg.batch_size, cfg.batch_size)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size={cfg.batch_size!r} must be at least 1, a whole number, or auto")
    return size


def pictures(cfg: DictConfig) -> float:
    """How many images get pictures."""
    most = {"all": math.inf, "none": 0}.get(cfg.pictures, cfg.pictures)
    if isinstance(most, bool) or not (isinstance(most, int) or most == math.inf) or most < 0:
        raise ValueError(f"pictures={cfg.pictures!r} must be a number of images, all or none")
    return most


def check_keys(cfg: DictConfig) -> None:
    """Refuses root keys that nothing reads, which `+key=value` could bring in."""
    known = set(SCHEMA) | set(groups()) | {"regularizers", "metrics", "image_augmentations", "input_augmentations"} | set(options("augment"))
    for key in cfg:
        name = key.removeprefix("lambda_")
        if name != key and name not in (cfg.get("regularizers") or {}):
            raise ValueError(unused_weight(key))
        if name == key and key not in known:
            raise ValueError(unknown_key(key, known))
