"""From a composed configuration to operators and to a method, built and checked. mpx.config_plan builds the rest of a run.

A part is an operator with its options bound (a functools.partial). The function's signature is its schema: an unknown or
ill-typed option is refused when the part is built, not when it is first called. User errors are ValueErrors of one sentence.
Only mpx/config*.py and mpx/cli import Hydra and OmegaConf.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from os import PathLike
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mpx.config_errors import Node, error_sentence, missing_target, targets, unknown_key, unused_weight, warn_of_unread
from mpx.config_schema import CONFIGS, INTERPOLATED, REQUIRED_GROUPS, SCHEMA, compose, groups, options, to_plain
from mpx.errors import names_unknown_arguments, near, own_code_error, with_place
from mpx.learning.method import Method
from mpx.option_values import check_options
from mpx.tasks.base import Task

CALLED_AT_ONCE = ("task", "dataset", "model")  # mpx calls the functions of all other nodes itself, with tensors or a context
GLOBAL_GROUPS = ("regularizer", "augment", "metric")  # options of these write to root keys of other names
# groups whose options explain() and evaluate() take as functions
PARTS = ("perturbation", "mask", "score", "regularizer", "ranking", "optimizer", "scheduler", "stop", "gradient",
         "explainer", "metric")  # fmt: skip
METHOD_VALUES = ("game", "dual_weight", "prune", "samples", "steps", "precision", "compile", "seed")  # root keys of a method
HINT = ': write it as on the command line, e.g. "steps=30"'


def option(group: str, choice: str | Callable[..., Any], **root: Any) -> Callable[..., Any]:
    """Return one part by the name of its file in configs/<group>/; a callable is returned as it is.

    root: the root keys that the file may refer to, e.g. mask_size.
    """
    if callable(choice):
        return choice
    _check_option(group, choice, "; a function works, too")
    loaded = OmegaConf.load(CONFIGS / group / f"{choice}.yaml")
    if "_target_" in loaded:
        return build(OmegaConf.create({**root, group: loaded})[group], group)
    cfg = OmegaConf.merge(loaded, root)  # a file that owns a root key keeps its part one level down, e.g. regularizers.l1
    assert isinstance(cfg, DictConfig)
    return build(next(node[choice] for node in cfg.values() if isinstance(node, DictConfig)), group)


def part(group: str, name: str, /, **options: Any) -> partial[Any]:
    """Return an option of a group for explain() or evaluate(), with options of its own, e.g. "blur_gaussian", sigma=3.

    group: of PARTS. The options that are not given are those of the file configs/<group>/<name>.yaml.
    """
    if group not in PARTS:
        raise ValueError(f"{group!r} is not a group of parts: choose one of {', '.join(PARTS)}")
    cfg = compose()
    built = partial(option(group, name, **{key: cfg[key] for key in (*INTERPOLATED, "steps")}), **options)
    check_options(built, group)
    return built


def other_perturbations(names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return name -> perturbation of the names in `other_perturbations`."""
    for name in names:
        _check_option("perturbation", name, key="other_perturbations")
    return {name: option("perturbation", name) for name in names}


def _check_option(group: str, choice: object, otherwise: str = "", key: str = "") -> None:
    """Raise ValueError for a name that no file in configs/<group>/ has.

    otherwise: what may stand in its place; key: of the configuration, by default the group.
    """
    if choice not in options(group):
        near_it = near(choice, options(group))
        raise ValueError(f"{key or group}={choice!r} is not an option{near_it} (mpx --help lists all){otherwise}")


def build(node: Node, name: str) -> Any:
    """Instantiate one part and check its options against its signature; name: of the node, for error sentences."""
    target = _check_target(node, name)
    if not node.get("_partial_"):
        check_options(_bound(target, node), name)
    try:
        part = instantiate(node)
    except Exception as error:  # Hydra wraps whatever the target raised
        cause = error.__cause__ or error
        if isinstance(cause, ValueError) and not own_code_error(cause):
            raise cause from None
        if isinstance(cause, (MissingMandatoryValue, HydraException)):  # Hydra refuses some targets
            raise ValueError(error_sentence(cause)) from None
        called = re.match("Error in call to target '(.+)':", str(error))  # perhaps that of a node below
        target = called[1] if called else target
        raise ValueError(f"{name}: {target} raised {type(cause).__name__}: {with_place(cause)}") from error
    if not isinstance(part, partial):
        return part
    check_options(part, name)
    return partial(part.func, *part.args, **part.keywords)  # Hydra's own partial checks its target at every call


def _check_target(node: Node, name: str) -> str:
    """Return the dotted path of the function or class that a node names, or raise ValueError where it names none.

    Those that nodes below it name are checked, too.
    """
    target = node.get("_target_") if isinstance(node, (DictConfig, Mapping)) else None
    if not isinstance(target, str):
        raise ValueError(f"{name} has no _target_: its YAML must name a function or class, _target_: module.function")
    for key, path in targets(OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node, name):
        if sentence := missing_target(path):
            raise ValueError(f"{key}: _target_ {path}: {sentence}")
    if (node.get("_partial_") is True) == (name in CALLED_AT_ONCE):
        change = "leave out" if name in CALLED_AT_ONCE else "add"
        raise ValueError(f"{name}: _target_ {target}: {change} the line _partial_: true in its YAML")
    return target


def named_nodes(cfg: Node, group: str) -> dict[str, Node]:
    """Return the nodes of a key that holds one for each name: regularizers, augmentations, metrics, callbacks, loggers."""
    nodes = cfg.get(group) or {}
    if not isinstance(nodes, (DictConfig, Mapping)):
        raise ValueError(f"{group}={nodes!r} must hold parts: write the name of each below it, and _target_ below that")
    for key in nodes:
        if not isinstance(nodes[key], (DictConfig, Mapping)):
            raise ValueError(f"{group}.{key}={nodes[key]!r} is no part: write the part's name, and _target_ below it")
    return dict(nodes)


def _bound(target: str, node: Node) -> partial[Any]:
    """Return the function or class of a node that is called at once, with the options that have a value."""
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    assert isinstance(plain, Mapping)
    options = {str(key): value for key, value in plain.items() if str(key)[0] != "_" and value != "???"}
    return partial(get_object(target), **options)


def build_method(cfg: DictConfig) -> Method:
    """Return the method of a composed configuration."""
    check_keys(cfg)
    regularizers = {
        name: (number(cfg, f"lambda_{name}"), build(node, f"regularizers.{name}"))
        for name, node in named_nodes(cfg, "regularizers").items()
    }
    return Method(
        perturbation=build(cfg.perturbation, "perturbation"),
        mask=build(cfg.mask, "mask"),
        score=build(cfg.score, "score"),
        ranking=build(cfg.ranking, "ranking"),
        regularizers=regularizers,
        image_augmentations=_augmentations(cfg, "image_augmentations"),
        input_augmentations=_augmentations(cfg, "input_augmentations"),
        areas=tuple(cfg.area) if OmegaConf.is_list(cfg.area) else (cfg.area,),
        optimizer=build(cfg.optimizer, "optimizer"),
        explainer=_optional(cfg, "explainer"),
        gradient=_optional(cfg, "gradient"),
        scheduler=_optional(cfg, "scheduler"),
        stop=_optional(cfg, "stop"),
        **{key: cfg[key] for key in METHOD_VALUES},
    )


def _optional(cfg: DictConfig, group: str) -> Callable[..., Any] | None:
    return build(cfg[group], group) if cfg.get(group) else None


def _augmentations(cfg: DictConfig, group: str) -> list[Callable[..., Any]]:
    """Return the augmentations of one kind; a strength of 0 turns one off."""
    return [build(node, f"{group}.{name}") for name, node in named_nodes(cfg, group).items() if number(cfg, name)]


@names_unknown_arguments(HINT)
def method(experiment: str, *overrides: str, config_dir: str | PathLike | None = None) -> Method:
    """Return a method (`experiment=`) for explain(), with overrides as on the command line; config_dir: as --config-dir."""
    if config_dir is None:
        _check_option("experiment", experiment)
    method_keys = {field.name for field in fields(Method)} | {"area", "mask_size", "lr", "regularizer", "augment"}
    for override in overrides:
        if not isinstance(override, str):
            raise ValueError(f"the override {override!r} must be text{HINT}")
        key = re.split(r"[=.]", override.lstrip("+~"), maxsplit=1)[0]
        if key in {*SCHEMA, *groups()} - method_keys:
            raise ValueError(f"{override}: {key} is not part of a method: pass it to explain()")
    try:
        cfg = compose(f"experiment={experiment}", *overrides, config_dir=config_dir)
        warn_of_unread(cfg, overrides)
        return build_method(OmegaConf.create(to_plain(cfg)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(error_sentence(error)) from error


@names_unknown_arguments(HINT)
def task(name: str, *overrides: str) -> Task:
    """Return a task (`task=`) for explain() and MaskLearner, with overrides as on the command line: "task.region=image"."""
    _check_option("task", name, "; an mpx.Task works, too")
    for override in map(str, overrides):
        if not override.lstrip("+~").startswith("task."):
            raise ValueError(f"{override} is not an option of the task: write e.g. task.region=image")
    try:
        return build_task(compose(f"task={name}", *overrides).task)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(error_sentence(error)) from error


def named_task(task_or_name: str | Task | None) -> Task | None:
    """Return the task of a name; a task is returned as it is."""
    return task(task_or_name) if isinstance(task_or_name, str) else task_or_name


def build_task(node: Node) -> Task:
    """Return what of the network's output is explained."""
    built = build(node, "task")
    if not isinstance(built, Task):
        raise ValueError(f"task: {type(built).__name__} must be an mpx.Task")
    return built


def number(cfg: Node, key: str) -> float:
    """Return the value of a root key that must be a finite number, 0 or larger."""
    if key not in cfg:
        raise ValueError(f"{key} is missing: the YAML of this part must set it at the root, e.g. {key}: 0.1")
    value = cfg.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{key}={value!r} must be a number, 0 or larger")
    return value


def check_keys(cfg: DictConfig) -> None:
    """Refuse root keys that nothing reads, which `+key=value` and YAML files without `# @package _global_` can add."""
    for group in REQUIRED_GROUPS:
        if not isinstance(node := cfg.get(group), DictConfig):
            problem = " cannot be left out" if node is None else f"={node!r} is no part"
            raise ValueError(f"{group}{problem}: choose one of {', '.join(options(group))}")
    nodes = ("regularizers", "metrics", "image_augmentations", "input_augmentations")
    known = {*SCHEMA, *groups(), *nodes, *options("augment")}
    for key in map(str, cfg):
        name = key.removeprefix("lambda_")
        if name != key and name not in named_nodes(cfg, "regularizers"):
            raise ValueError(unused_weight(key))
        if key in GLOBAL_GROUPS:
            raise ValueError(f"a YAML that {key}= chooses adds nothing: its first line must be # @package _global_")
        if name == key and key not in known:
            raise ValueError(unknown_key(key, known))
