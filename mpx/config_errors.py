"""Sentences for errors in a configuration: each names the value, the allowed values and the next step. Imports no torch."""

import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError, YAMLError

from mpx.cli.menu import root_keys
from mpx.config_schema import ENGINES, INTERPOLATED, LISTS, SEVERAL, groups, menu_targets, options, readers
from mpx.errors import OwnCodeError, as_told, first_line, near, place, with_place

KINDS = {IntegerNode: "a whole number", FloatNode: "a number", BooleanNode: "true or false", StringNode: "text"}
GROUPS = {"regularizers": "regularizer", "metrics": "metric", "image_augmentations": "augment",
          "input_augmentations": "augment"}  # root key -> group of the parts below it  # fmt: skip
Node = DictConfig | Mapping[str, Any]  # a configuration, or a part of it
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm"}  # Hydra launcher -> extra of pyproject.toml


def run_error_sentence(error: BaseException, cfg: Node) -> str:
    """Return an error of a run of this configuration as a sentence; an empty string for one that is mpx's own fault."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return error_sentence(error)
    told = as_told(error)
    if isinstance(told, OwnCodeError):
        return own_code_sentence(told, cfg)
    if isinstance(told, ValueError | OSError):
        return error_sentence(told)
    return other_part_sentence(error, cfg)


def error_sentence(error: Exception) -> str:
    """Return an error of Hydra, OmegaConf or the file system as one sentence; any other error's own text.

    Characters that would drive a terminal or begin a line are escaped.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _sentence(error))


def _sentence(error: Exception) -> str:
    if isinstance(error, OverrideParseException):
        return _malformed_override(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(str(error.missing_cfg_file))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_error(error)
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    return str(error)


def check_yaml_files(folder: Path) -> None:
    """Raise ValueError for a YAML in the groups of a user's folder that cannot be read; Hydra would not name its file."""
    for path in sorted(path for group in groups() for path in folder.glob(f"{group}/*.yaml")):
        try:
            if not path.is_file():  # a pipe would block
                raise ValueError("it is not a regular file")
            if not isinstance(OmegaConf.load(path), DictConfig):
                raise ValueError("it must hold keys with values, key: value")
        except YAMLError as error:
            mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
            line = f", line {mark.line + 1}" if mark else ""
            problem = error.problem if isinstance(error, MarkedYAMLError) else first_line(error)
            raise ValueError(f"cannot read {path}{line}: {problem}; look at its indentation, quotes and brackets") from error
        except (ValueError, OSError, RecursionError, OmegaConfBaseException) as error:
            raise ValueError(f"cannot read {path}: {first_line(error)}") from error


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the sentence for a key that does not exist, with near matches among the known keys of its node."""
    parent, _, name = key.rpartition(".")
    return f"there is no key {key}{near(name, known)} ({'--cfg job' if parent else '--help'} lists all)"


def unused_weight(key: str) -> str:
    """Return the sentence for lambda_<name> where regularizer=[...] does not choose <name>."""
    name = key.removeprefix("lambda_")
    if name in options("regularizer"):
        return f"{key} weighs a term that is not chosen: add it to regularizer=[...,{name}], or leave {key} out"
    return f"{key}: there is no regularizer {name}{near(name, options('regularizer'))}"


def warn_of_unread(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Warn of root keys on the command line that nothing of the composed configuration reads."""
    text = OmegaConf.to_yaml(cfg)
    for key, _, value in (override.lstrip("+").partition("=") for override in overrides):
        if key in INTERPOLATED and f"${{{key}}}" not in text:
            warnings.warn(unread(key, value), stacklevel=3)


def unread(key: str, value: object) -> str:
    """Return the sentence for a root key whose value no chosen option reads."""
    used = " or ".join(f"{group}={', '.join(names)}" for group, names in readers(key).items())
    return f"{key}={value} has no effect: nothing that is chosen here reads it; {used} would"


def own_code_sentence(error: OwnCodeError, cfg: Node) -> str:
    """Return which part of a configuration failed in the user's own code, where, and the frames of that code."""
    part = _failed_part(error, cfg)
    where = f"in {error.frames[-1].name} at {place(error.frames[-1])}"
    return f"{part} failed with {error.error}, {where} (HYDRA_FULL_ERROR=1 shows all frames)\n{error.lines}"


NO_GROUP = ("hydra", "verdict")  # nodes with functions that are not chosen by name


def other_part_sentence(error: BaseException, cfg: Node) -> str:
    """Return an error as one of the functions and classes that a configuration names and the menu of their group lacks.

    An empty string where all are of the menu.
    """
    parts = {key: node for key, node in _plain(cfg).items() if key not in NO_GROUP}
    named = [f"{key}: _target_ {path}" for key, path in targets(parts, "")
             if path not in menu_targets(GROUPS.get(group := key.partition(".")[0], group))]  # fmt: skip
    reason = f"{type(error).__name__}: {first_line(error)}"
    if not named:
        return ""
    question = f"does {' or '.join(named)} take and return what mpx/README.md says of such a part?"
    return f"{reason}: {question} (HYDRA_FULL_ERROR=1 shows all frames)"


def _failed_part(error: OwnCodeError, cfg: Node) -> str:
    """Return the key of the part whose function mpx called, as far as the file and the name of the function tell."""
    first, candidates = error.frames[0], {}
    for key, path in targets(_plain(cfg), ""):
        parts = path.split(".")
        modules = (sys.modules.get(".".join(parts[:k])) for k in range(len(parts), 0, -1))
        module = next((module for module in modules if module is not None), None)
        if module is not None and module.__spec__ is not None and module.__spec__.origin == first.filename:
            candidates[key] = path
    named = [key for key, path in candidates.items() if path.endswith(f".{first.name}")] or list(candidates)
    if "models" in Path(error.caller).parts:
        return "model"
    return named[0] if len(named) == 1 else "your own code"


def _plain(cfg: Node) -> Mapping[str, Any]:
    plain = OmegaConf.to_container(cfg) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(plain, Mapping)
    return {str(key): value for key, value in plain.items()}


def targets(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, dotted path) of each _target_ in a plain node and in the nodes below it."""
    if isinstance(value, Mapping) and isinstance(path := value.get("_target_"), str):
        yield key, path
    for name, item in value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ():
        yield from targets(item, f"{key}.{name}".lstrip("."))


def missing_target(path: str) -> str:
    """Return which part of the dotted path of a function or class is missing; an empty string where none is."""
    found, depth, parts = None, 0, path.split(".")
    if not all(parts):
        return "a dotted path has a name before and after each dot, module.function"
    for k in range(1, len(parts) + 1):
        module = ".".join(parts[:k])
        try:
            found, depth = importlib.import_module(module), k
        except ModuleNotFoundError as error:
            if error.name != module:
                return f"importing {module} failed: {with_place(error)}"
            break
        except Exception as error:  # whatever a module of the user's raises
            return f"importing {module} raised {type(error).__name__}: {with_place(error)}"
    if found is None:
        return f"there is no module {parts[0]}; a module of your own must lie in the working folder"
    for k in range(depth, len(parts)):
        names = [name for name in dir(found) if not name.startswith("_")]
        if parts[k] not in dir(found):
            return f"{'.'.join(parts[:k])} has no {parts[k]}{near(parts[k], names)}"
        found = getattr(found, parts[k])  # foreign: a module or class that the user names
    return "" if callable(found) else "this is no function or class"


def _malformed_override(error: OverrideParseException) -> str:
    if os.path.exists(error.override):
        return f"{error.override} is a file or folder of yours: write images={error.override}"
    if "=" not in error.override:
        return f"{error.override}: an argument is key=value or group=option (--help lists all)"
    return f"{error.override}: {first_line(error)}; quote what holds brackets, commas or spaces, e.g. 'images=\"a,b.jpg\"'"


def _missing_option(path: str) -> str:
    group, _, name = path.rpartition("/")
    if not group:
        return (
            f"--config-name {name.lstrip('=')}: mpx has one configuration, config; a file of your own is an option, e.g. "
            f"my/experiment/{name.lstrip('=')}.yaml with --config-dir my experiment={name.lstrip('=')}"
        )
    extra = EXTRAS.get(name, name)
    if group.startswith("hydra/") and extra in ENGINES:
        return f"{group}={name} needs a package that is not installed: pip install 'mpx[{extra}]'"
    for library in ("torchvision", "timm") if group == "model" else ():
        if name in _networks(library):
            return f"model={name} is not an option, and a network of {library}: write model={library} model.name={name}"
    return f"{group}={name} is not an option{near(name, options(group))} (--help lists all)"


def _networks(library: str) -> list[str]:
    """Return the networks of torchvision or timm; none where it is not installed."""
    try:
        return importlib.import_module("torchvision.models" if library == "torchvision" else library).list_models()
    except ImportError:
        return []


def _config_error(error: HydraException | OmegaConfBaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        name = str(cause.full_key)
        siblings = [key for key in cause.parent_node or [] if key != "hydra"]
        return unused_weight(name) if name.startswith("lambda_") else unknown_key(name, siblings)
    if isinstance(cause, ValidationError) and type(cause.child_node) in KINDS:
        value = "null" if cause.value is None else repr(cause.value)
        meaning = next((f": {meaning}" for key, _, meaning in root_keys() if key == cause.full_key), "")
        return f"{cause.full_key}={value} must be {KINDS[type(cause.child_node)]}{meaning}"
    if isinstance(cause, MissingMandatoryValue) and cause.full_key:
        return f"{cause.full_key} has no value: give {cause.full_key}=..."
    if isinstance(cause, InstantiationException):  # its first sentence, of several lines
        return re.split(r"(?<=[.]) ", " ".join(str(cause).split()))[0]
    text = first_line(cause)
    if group := re.match("Multiple values for (.+?)[.] To override", text):
        return f"+{group[1]}=...: leave out the +, which adds a key: {group[1]} is one already, {group[1]}=..."
    if (group := re.match("Could not delete '(.+?)'", text)) and group[1] in LISTS:
        return f"~{group[1]}: {group[1]} is a list, which may be empty: write {group[1]}=[]"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        text = f"{cause.full_key}: {text}"
    ambiguous = re.match("Ambiguous value for argument '(.+?)=(.*)'", text)
    if ambiguous and ambiguous[1] in SEVERAL:
        return f"{ambiguous[1]}={ambiguous[2]}: write {ambiguous[1]}=[{ambiguous[2]}] for several, or add -m to sweep"
    return f"{text}; quote a value that holds a comma, 'key=\"a,b\"', or add -m to sweep" if ambiguous else text
