"""The configuration stored in a run's folder. Resuming or joining a run requires an equal configuration."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mpx.runs import store
from mpx.runs.files import write_file

if TYPE_CHECKING:
    from mpx.runs.plan import RunPlan

RESUMABLE_KEYS = ("name", "force", "limit", "dataset.limit", "trainer.devices", "launch", "share", "log_images", "logger",
                  "sufficient_share", "metrics", "other_perturbations", "verdict",
                  "objective")  # keys that may change when a run is resumed # fmt: skip
RESUMABLE_WITHOUT_DETERMINISM = ("batch_size", "device", "threads", "parallel", "compile")  # these may change bits
METRIC_KEYS = ("metrics", "other_perturbations", "verdict")  # equal in processes that work at the same time
FILE_KEYS = {"model": ("weights", "network", "categories"), "task": ("embeddings", "images", "region")}  # may name a file
PARTS_WITHOUT_ROWS = ("metrics", "logger", "callbacks", "trainer", "dataset")  # whose code no row depends on
CODE = "code_sha256"  # module of the user's that the configuration names -> digest
DIGEST = "_sha256"
ABSENT = "absent"


def check_config(plan: "RunPlan", joins: bool) -> None:
    """Store the configuration in the folder's .hydra/, or refuse one that differs from that of the rows on disk.

    joins: other processes are working in this folder, and theirs is compared even before there are rows.
    """
    path = plan.folder / ".hydra" / "config.yaml"
    config = stored_config(plan.config)
    if joins or any(map(store.is_row, plan.folder.glob("masks/*.npz"))):
        free = [key for key in _free_keys(plan.deterministic) if not (joins and key in METRIC_KEYS)]
        stored = _load(path)
        differing = [(key, change) for key, *change in _differences(stored, config) if not _is_below(key, free)]
        of_root_keys = [change for key, change in differing if "." not in key]
        differences = [
            f"{key} was {old} and is {new}"
            for key, (old, new) in differing
            if "." not in key or [old, new] not in of_root_keys  # else it is interpolated from the root key
        ]
        if differences:
            raise ValueError(
                f"{plan.folder} holds a run with another configuration: {', '.join(differences)}; give the same values to "
                "continue it, or another name= to start a new run"
            )
    if not joins:
        write_file(path, to_yaml(config))
        write_file(path.with_name("overrides.yaml"), to_yaml(plan.overrides))


def configuration_digest(config: Mapping[str, Any], deterministic: bool) -> str:
    """Return a digest of the part of a configuration that rows depend on, and of the files that it names."""
    free = _free_keys(deterministic)
    leaves = {key: value for key, value in _leaves(stored_config(config)) if not _is_below(key, free)}
    return sha256(json.dumps(leaves, sort_keys=True, default=str).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    """Return a stored configuration, or refuse the rows whose configuration is not known."""
    try:
        stored = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        stored = None
    if not isinstance(stored, dict):
        raise ValueError(
            f"{path} is {'damaged' if path.exists() else 'missing'}, so nobody knows how the rows in {path.parents[1]} were "
            "made: restore it, give another name=, or force=true to remove the rows"
        )
    return stored


def _free_keys(deterministic: bool) -> tuple[str, ...]:
    return RESUMABLE_KEYS + (() if deterministic else RESUMABLE_WITHOUT_DETERMINISM)


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{prefix}.") for prefix in prefixes)


def stored_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as a folder stores it: with digests of the files it names, which may change in place."""
    stored = dict(config)
    for group, keys in FILE_KEYS.items():
        for key in keys:
            value = config[group].get(key)
            if not isinstance(value, str):
                continue
            file = Path(value.rpartition(":")[0] if key == "network" else value).expanduser()
            if file.is_file():
                stored[group] = {**stored[group], f"{key}{DIGEST}": sha256(file.read_bytes()).hexdigest()}
    parts = {key: value for key, value in config.items() if key not in PARTS_WITHOUT_ROWS}
    if code := {name: sha256(file.read_bytes()).hexdigest() for name, file in sorted(_own_modules(parts))}:
        stored[CODE] = code
    return stored


def load_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the run in a folder, without the digests. Raises ValueError where it is not stored."""
    config = _load(folder / ".hydra" / "config.yaml")
    config.pop(CODE, None)
    digests = [(group, f"{key}{DIGEST}") for group, keys in FILE_KEYS.items() for key in keys]
    for group, key in digests:
        config[group].pop(key, None)
    return config


def input_files(config: Mapping[str, Any]) -> list[Path]:
    """Return the files of maps that a configuration reads beside its images (explainer=files)."""
    folder = (config.get("explainer") or {}).get("folder")
    path = Path(str(folder)).expanduser()
    return sorted(path.iterdir()) if folder is not None and path.is_dir() else []


def _own_modules(value: Any, key: str = "") -> set[tuple[str, Path]]:
    """Return (name, file) of the modules that a configuration names and that are not installed: the user's own."""
    if isinstance(value, Mapping):
        return {found for inner, one in value.items() for found in _own_modules(one, str(inner))}
    if key == "_target_" and not str(value).startswith("mpx."):
        name = str(value).rpartition(".")[0]
    elif key == "network" and isinstance(value, str) and not value.rpartition(":")[0].endswith(".py"):
        name = value.rpartition(":")[0]
    else:
        return set()
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # building the part gives the error
        return set()
    is_own = spec and spec.has_location and spec.origin and "site-packages" not in Path(spec.origin).parts
    return {(name, Path(spec.origin))} if is_own and spec and spec.origin else set()


def to_yaml(values: dict[str, Any] | list[Any]) -> str:
    """Return plain values as YAML text, in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def to_command(overrides: list[str]) -> str:
    """Return the command line with these overrides; the folder of a named run, which evaluate.py gives, follows from it."""
    is_named = any(override.startswith("name=") for override in overrides)
    return shlex.join(["mpx", *(o for o in overrides if not (is_named and o.startswith("hydra.run.dir=")))])


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of all leaves of a configuration."""
    if isinstance(value, Mapping):
        for inner in value:
            yield from _leaves(value[inner], f"{key}.{inner}" if key else inner)
    else:
        yield key, value


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old value, new value) of all leaves that differ; ABSENT stands for a key that is not there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(inner, ABSENT), new.get(inner, ABSENT), f"{key}.{inner}" if key else str(inner))
    elif old != new:
        yield key, old, new
