"""The menu in configs/: its folders, the types of its root keys and the composition of a configuration.

This module imports no torch, so that `mpx --help`, `mpx --cfg job` and tab completion answer at once. mpx/config.py turns
a composed configuration into the parts of a run.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode

_INSTALLED = Path(__file__).parent / "configs"  # a wheel has configs/ inside the package, a checkout beside it
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"

ENGINES = ("joblib", "slurm", "ray", "optuna")  # extras of pyproject.toml, each a Hydra plugin

# types of the root keys of config.yaml; the type of an option's own key is in its function's signature
SCHEMA = {
    **{key: AnyNode() for key in ("images", "target", "area", "mask_size", "pictures", "bands")},
    **{key: AnyNode() for key in ("other_perturbations", "batch_size", "verdict")},
    **{key: StringNode(MISSING, is_optional=False) for key in ("name", "game", "device", "precision", "parallel", "share")},
    **{key: IntegerNode(MISSING, is_optional=False) for key in ("steps", "samples", "seed", "log_images", "frames")},
    **{key: FloatNode(MISSING, is_optional=False) for key in ("lr", "dual_weight", "prune", "sufficient_share")},
    **{key: BooleanNode(MISSING, is_optional=False) for key in ("deterministic", "force", "compile")},
    **{"objective": StringNode(), "limit": IntegerNode(), "threads": IntegerNode()},  # which may be null
}
# groups of which an option must be chosen; the others may be null
REQUIRED_GROUPS = ("model", "task", "dataset", "perturbation", "mask", "score", "ranking", "optimizer", "trainer")
LISTS = ("regularizer", "augment", "metric")  # groups whose default is a list of options
SEVERAL = (*LISTS, "logger", "callbacks")  # groups of which several options may be chosen
INTERPOLATED = ("mask_size", "lr")  # root keys that only the YAML of some options reads, as ${lr}
ConfigStore.instance().store("mpx_schema", SCHEMA)


def groups() -> list[str]:
    """Return the names of the configuration groups: the folders in configs/."""
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """Return the names of a group's options: the YAML files in its folder."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@cache  # explain() reads it at every call
def readers(key: str) -> dict[str, list[str]]:
    """Return group -> its options whose YAML reads a root key."""
    found = {group: [name for name in options(group) if f"${{{key}}}" in _text(group, name)] for group in groups()}
    return {group: names for group, names in found.items() if names}


def menu_targets(group: str) -> set[str]:
    """Return the functions and classes that the options of a group name."""
    return {path for name in options(group) for path in re.findall(r"_target_: (\S+)", _text(group, name))}


def _text(group: str, option: str) -> str:
    return (CONFIGS / group / f"{option}.yaml").read_text("utf-8")


def without_null_groups(overrides: Sequence[str]) -> list[str]:
    """Return overrides with `group=null` as Hydra leaves a group out: `~group`, or `group=[]` where it lists options."""
    nulls = {f"{group}=null": f"{group}=[]" if group in LISTS else f"~{group}" for group in groups()}
    return [nulls.get(override, override) for override in overrides]


def compose(*overrides: str, choices: bool = False, config_dir: str | PathLike | None = None) -> DictConfig:
    """Return the configuration of these command line overrides.

    choices: whether it keeps the node `hydra`. config_dir: a folder of further options, as --config-dir.
    """
    own = [] if config_dir is None else [f"hydra.searchpath=['file://{_own_folder(config_dir)}']"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("config", [*own, *without_null_groups(overrides)], return_hydra_config=choices)


def composed(*overrides: Any, config_dir: str | PathLike | None = None) -> DictConfig:
    """Return the configuration, with its node `hydra`, of overrides or of one DictConfig that Hydra composed of configs/.

    Within @hydra.main, whose configuration lacks the node, that is Hydra's own.
    """
    if not is_composed(overrides):
        return compose(*overrides, choices=True, config_dir=config_dir)
    (cfg,) = overrides
    if config_dir is not None:
        raise ValueError("config_dir= is for overrides: a composed configuration already has its options")
    if "hydra" not in cfg and not HydraConfig.initialized():
        how = "hydra.compose(..., return_hydra_config=True)"
        raise ValueError(f"the configuration lacks the node hydra: compose it with {how}")
    return cfg if "hydra" in cfg else OmegaConf.merge({"hydra": HydraConfig.get()}, cfg)  # type: ignore[return-value]


def is_composed(overrides: Sequence[Any]) -> bool:
    """Return whether these are no overrides, but one configuration."""
    return len(overrides) == 1 and isinstance(overrides[0], DictConfig)


def given_name(cfg: DictConfig) -> str | None:
    """Return the run's name where the configuration gives one; None: the time."""
    return None if OmegaConf.is_interpolation(cfg, "name") else cfg.name


def has_log(cfg: DictConfig) -> bool:
    """Return whether hydra/job_logging= writes run.log."""
    return "file" in ((cfg.hydra.job_logging.get("root") or {}).get("handlers") or [])


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as dictionaries and lists, without Hydra's node.

    A number from the environment, ${oc.env:X,8}, is a number, as on the command line, and not a text as OmegaConf reads it.
    """
    copy = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    for key in _environment_keys(OmegaConf.to_container(copy)):
        text = OmegaConf.select(copy, key)
        for kind in () if isinstance(SCHEMA.get(key), StringNode) else (float, int):  # neither, where it is another text
            with suppress(ValueError):
                OmegaConf.update(copy, key, kind(text))
    plain_config = OmegaConf.to_container(copy, resolve=True)
    assert isinstance(plain_config, dict)
    return {str(key): value for key, value in plain_config.items()}


def _environment_keys(node: Any, key: str = "") -> Iterator[str]:
    """Yield the keys of a plain node, and of those below it, whose value is a variable of the environment."""
    if isinstance(node, str) and re.fullmatch(r"\$\{oc\.env:[^{}]*\}", node):
        yield key
    for name, item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _environment_keys(item, f"{key}.{name}".lstrip("."))


def _own_folder(path: str | PathLike) -> Path:
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"config_dir={str(path)!r} is no folder: give one that holds e.g. experiment/mine.yaml")
    return folder


def claim_name(outputs: Path) -> str:
    """Make the folder of a run without a name in `outputs`: the time, with a number where that is taken; return its name."""
    _time.cache_clear()
    for number in count(1):
        name = _time() + f"_{number}" * (number > 1)
        try:
            (outputs / name).mkdir(parents=True)
        except FileExistsError:
            continue
        _claimed[:] = [name]
        return name
    raise AssertionError("count has no end")


def _run_name() -> str:
    return _claimed[0] if _claimed else _time()


@cache
def _time() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def _parallel_jobs() -> int:
    """Return how many sweep jobs run at once on this machine: one per GPU, or one per core without GPUs."""
    from mpx.devices import gpu_count  # a resolver runs when its value is read, long after --help
    from mpx.runs.devices import available_cores

    return gpu_count() or available_cores()


def _job_folder(overrides: list[str]) -> str:
    """Return a job's folder under a sweeper that does not name it (sweep=optuna)."""
    from mpx.cli.folders import folder_name

    pairs = (override.partition("=")[::2] for override in overrides)
    return folder_name({key: value for key, value in pairs if key not in ("name", "sweep")})


_claimed: list[str] = []  # the name of this process's run
OmegaConf.register_new_resolver("mpx_name", _run_name, replace=True)
OmegaConf.register_new_resolver("mpx_slots", _parallel_jobs, replace=True)
OmegaConf.register_new_resolver("mpx_job", _job_folder, replace=True)
