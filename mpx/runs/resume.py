"""The configuration stored in a run's folder. Resuming or joining a run requires an equal configuration."""

import shlex
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mpx.runs.files import write_file

if TYPE_CHECKING:
    from mpx.runs.plan import RunPlan

RESUMABLE_KEYS = ("name", "force", "limit", "dataset.limit", "trainer.devices", "share", "log_images", "logger",
                  "sufficient_share", "metrics", "other_perturbations",
                  "objective")  # keys that may change when a run is resumed # fmt: skip
RESUMABLE_WITHOUT_DETERMINISM = ("batch_size", "device", "threads", "parallel", "compile")  # these may change bits
METRIC_KEYS = ("metrics", "other_perturbations")  # equal in processes that work at the same time
FILE_KEYS = {"model": ("weights", "network"), "task": ("embeddings", "images", "region")}  # that may name a file
DIGEST = "_sha256"
ABSENT = "absent"


def check_config(plan: "RunPlan", joins: bool) -> None:
    """Store the configuration in the folder's .hydra/, or refuse one that differs from that of the rows on disk.

    joins: other processes are working in this folder, and theirs is compared even before there are rows.
    """
    path = plan.folder / ".hydra" / "config.yaml"
    config = stored_config(plan.config)
    if path.exists() and (joins or any(plan.folder.glob("masks/*.npz"))):
        resumable = RESUMABLE_KEYS + (() if plan.deterministic else RESUMABLE_WITHOUT_DETERMINISM)
        free = [key for key in resumable if not (joins and key in METRIC_KEYS)]
        differences = [
            f"{key} was {old} and is {new}"
            for key, old, new in _differences(yaml.safe_load(path.read_text("utf-8")), config)
            if not any(f"{key}.".startswith(f"{prefix}.") for prefix in free)
        ]
        if differences:
            raise ValueError(
                f"{plan.folder} holds a run with another configuration: {', '.join(differences)}; give the same values to "
                "continue it, or another name= to start a new run"
            )
    if not joins:
        write_file(path, to_yaml(config))
        write_file(path.with_name("overrides.yaml"), to_yaml(plan.overrides))


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
    return stored


def to_yaml(values: dict[str, Any] | list[Any]) -> str:
    """Return plain values as YAML text, in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def to_command(overrides: list[str]) -> str:
    """Return the command line with these overrides."""
    return shlex.join(["mpx", *overrides])


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old value, new value) of all leaves that differ; ABSENT stands for a key that is not there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(inner, ABSENT), new.get(inner, ABSENT), f"{key}.{inner}" if key else inner)
    elif old != new:
        yield key, old, new
