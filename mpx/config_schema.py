"""The menu in configs/: its folders, the types of its root keys and the composition of a configuration.

This module imports no torch, so that `mpx --help`, `mpx --cfg job` and tab completion answer at once. mpx/config.py turns
a composed configuration into the parts of a run.
"""

import re
import time
from collections.abc import Sequence
from functools import cache
from itertools import count
from os import PathLike
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode

_INSTALLED = Path(__file__).parent / "configs"  # a wheel has configs/ inside the package, a checkout beside it
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"

ENGINES = ("joblib", "slurm", "ray", "optuna")  # extras of pyproject.toml, each a Hydra plugin

# types of the root keys of config.yaml; the type of an option's own key is in its function's signature
SCHEMA = {
    **{key: AnyNode() for key in ("images", "target", "area", "mask_size", "pictures", "bands")},
    **{key: AnyNode() for key in ("other_perturbations", "batch_size")},
    **{key: StringNode(MISSING, is_optional=False) for key in ("name", "game", "device", "precision", "parallel", "share")},
    **{key: IntegerNode(MISSING, is_optional=False) for key in ("steps", "samples", "seed", "log_images", "frames")},
    **{key: FloatNode(MISSING, is_optional=False) for key in ("lr", "dual_weight", "sufficient_share")},
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
