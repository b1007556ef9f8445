"""From the menu in configs/ to checked parts; besides, Hydra is imported by cli.py and sweeper.py alone.

A part is an operator with its options bound (a functools.partial). The function's signature is its schema: an unknown or
ill-typed option is refused when the part is built, not when it is first called. User errors are ValueErrors of one sentence.
"""

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from mpx.learning.method import Method
from mpx.models.classifier import Classifier
from mpx.runs.devices import cores

_beside = Path(__file__).parent / "configs"  # in a wheel; in a checkout they lie beside the package
CONFIGS = _beside if _beside.is_dir() else Path(__file__).parents[1] / "configs"

ENGINES = ("joblib", "slurm", "ray", "optuna")  # extras of pyproject.toml, each a plugin of Hydra's

# the types of config.yaml's keys; an option's type is its function's signature
SCHEMA = {
    **{key: AnyNode() for key in ("images", "target", "area", "mask_size", "pictures", "crossing", "batch_size")},
    **{key: StringNode() for key in ("name", "game", "device", "precision", "parallel", "share", "objective")},
    **{key: IntegerNode() for key in ("limit", "steps", "samples", "seed", "threads", "log_images", "frames")},
    **{key: FloatNode() for key in ("lr", "dual_weight", "enough")},
    **{key: BooleanNode() for key in ("deterministic", "force", "compile")},
}
ConfigStore.instance().store("mpx_schema", SCHEMA)


def folder_name(varied: dict[str, str]) -> str:
    """A sweep job's folder by what varies: "mask_size=14,perturbation=black"; report.sweep reads it back.

    Where that is too long for a folder, the longest values are cut: their ends, which of paths tell more, and a hash.
    """
    plain = {
        re.sub(r"^[+~]+", "", k): re.sub(r"[^\w.+=-]+", "-", str(v).strip("[]").replace(",", "+")) for k, v in varied.items()
    }
    whole = name = _joined(plain)
    for key in sorted(plain, key=lambda key: -len(plain[key])):
        if len(name.encode()) > 200 and len(plain[key]) > 32:
            plain[key] = f"{_digest(plain[key])}-{plain[key][-20:]}"
            name = _joined(plain)
    return name if len(name.encode()) <= 200 else f"{whole[:60]}-{_digest(whole)}"


def _joined(values: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in values.items())


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def _job(overrides: list[str]) -> str:
    """The same for a sweeper that does not say what it varies."""
    pairs = (override.partition("=")[::2] for override in overrides)
    return folder_name({key: value for key, value in pairs if key not in ("name", "sweep")})


def _slots() -> int:
    """Jobs at once on this machine: a GPU each, else a core."""
    return torch.cuda.device_count() or cores()


OmegaConf.register_new_resolver("mpx_slots", _slots, replace=True)
OmegaConf.register_new_resolver("mpx_job", _job, replace=True)


def compose(*overrides: str, choices: bool = False) -> DictConfig:
    """The config that these overrides give on the command line; choices: with Hydra's own part, which knows the options."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("config", list(overrides), return_hydra_config=choices)


def options(group: str) -> list[str]:
    """Names of a group's options: the files in its folder."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def near(name: str, names) -> str:
    """What may have been meant: '; near: a, b', or all names where few, or nothing."""
    names = sorted(names)
    close = difflib.get_close_matches(str(name), names, 3, 0.5) or (names if len(names) <= 12 else [])
    return f"; near it: {', '.join(close)}" if close else ""


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
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    own = {field.name for field in fields(Method)} | {"area", "mask_size", "lr", "regularizer", "augment"}
    for override in overrides:
        key = re.split(r"[=.]", override.lstrip("+~"), maxsplit=1)[0]
        if key in {*SCHEMA, *groups} - own:
            raise ValueError(f"{override}: {key} is no part of a method, but of how it is run: give it to explain()")
    try:
        return build_method(compose(f"experiment={experiment}", *overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(sentence(error)) from error


def metrics(cfg: DictConfig) -> dict[str, Callable]:
    """What finished masks are measured by: name -> function."""
    return {name: build(node, f"metrics.{name}") for name, node in (cfg.get("metrics") or {}).items()}


def crossing(cfg: DictConfig) -> dict[str, Callable]:
    """Perturbations beside its own under which a mask is judged: name -> function."""
    names = cfg.crossing if cfg.crossing is not None else []
    if not OmegaConf.is_list(names) and not isinstance(names, list):
        raise ValueError(f"crossing={cfg.crossing!r} must be a list of perturbations, e.g. crossing=[mean_color,noise]")
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
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    known = set(SCHEMA) | groups | {"regularizers", "metrics", "image_augmentations", "input_augmentations"} | set(options("augment"))
    for key in cfg:
        name = key.removeprefix("lambda_")
        if name != key and name not in (cfg.get("regularizers") or {}):
            raise ValueError(_not_chosen(key))
        if name == key and key not in known:
            raise ValueError(_unknown(key, known))


def sentence(error: Exception) -> str:
    """A Hydra or OmegaConf error as one sentence that names the value, what was allowed and what to do."""
    cause = error.__cause__ or error
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        return f"{error.override}: an argument is key=value or group=option (--help lists all)"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: {first_line(error)}; quote what holds brackets, commas or spaces, e.g. 'images=\"a,b.jpg\"'"
        )
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        group, _, name = missing.rpartition("/")
        extra = {"submitit_slurm": "slurm", "submitit_local": "slurm"}.get(name, name)
        if group.startswith("hydra/") and extra in ENGINES:
            return f"{group}={name} comes with a package that is not installed: pip install 'mpx[{extra}]'"
        return f"{group}={name} is not an option{near(name, options(group))} (--help lists all)"
    key = getattr(cause, "full_key", None)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        if key.startswith("lambda_"):
            return _not_chosen(key)
        return _unknown(key, [k for k in cause.parent_node or [] if k != "hydra"])
    text = (f"{key}: " if key else "") + first_line(cause)
    return f"{text}; quote a value that holds a comma, 'key=\"a,b\"', or add -m to sweep" if "Ambiguous" in text else text


def _unknown(key: str, known) -> str:
    parent, _, name = key.rpartition(".")
    return f"there is no key {key}{near(name, known)} ({'--help' if not parent else '--cfg job'} lists all)"


def _not_chosen(key: str) -> str:
    name = key.removeprefix("lambda_")
    if name in options("regularizer"):
        return f"{key} weighs a term that is not chosen: add it to regularizer=[...,{name}], or leave {key} out"
    return f"{key}: there is no regularizer {name}{near(name, options('regularizer'))}"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
