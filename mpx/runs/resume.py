"""The config that a run's folder keeps: who goes on there, or joins, must have the same."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mpx.config import CONFIGS
from mpx.runs.files import write_file

DIGEST = "_sha256"
UNKNOWN = "unknown"


def keep(cfg: DictConfig, folder: Path, free: Iterable[str], overrides: list[str], joins: bool) -> None:
    """Writes .hydra/ of a run's folder; refuses where rows, or others that this one joins, have another configuration.

    free: keys that may differ.
    """
    path, text = folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(to_keep(cfg))
    if joins:  # who works at the same time measures the same
        free = [key for key in free if key not in ("metrics", "other_perturbations")]
    if path.exists() and (joins or any(folder.glob("masks/*.npz"))):
        old, new = (OmegaConf.to_container(c) for c in (OmegaConf.load(path), OmegaConf.create(text)))
        found = [(key, a, b) for key, a, b in _differences(old, new) if not any(f"{key}.".startswith(f"{f}.") for f in free)]
        found = [(key, a, b) for key, a, b in found if a is not UNKNOWN or not _usual(key, b, new)]
        differing = [f"{key} was {a} and is {b}" for key, a, b in found]
        if differing:
            raise ValueError(
                f"{folder} holds a run with another configuration: {', '.join(differing)}; give the same values to "
                "continue it, or another name= to start anew"
            )
    if not joins:
        write_file(path, text)
        write_file(path.with_name("overrides.yaml"), OmegaConf.to_yaml(OmegaConf.create(overrides)))


def to_keep(cfg: DictConfig) -> dict:
    """A config as a run's folder keeps it: with the contents of the model's files, which may change in place."""
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), resolve=True)
    for key in ("weights", "network"):
        named = plain["model"].get(key)
        file = Path(named.rpartition(":")[0] if key == "network" else named).expanduser() if isinstance(named, str) else None
        if file and file.is_file():
            plain["model"][f"{key}{DIGEST}"] = sha256(file.read_bytes()).hexdigest()
    return plain


def _differences(old, new, key: str = "") -> Iterator[tuple]:
    """(key, old value, new value); UNKNOWN where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for k in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(k, UNKNOWN), new.get(k, UNKNOWN), f"{key}.{k}" if key else k)
    elif old != new:
        yield key, old, new


def _usual(key: str, value, new: dict) -> bool:
    """Whether a key that an older mpx did not have says what that did: its default. Of a model's file nothing was known."""
    group, _, inner = key.partition(".")
    files = (CONFIGS / group).glob("*.yaml") if inner else [CONFIGS / "config.yaml"]
    manuals = [OmegaConf.to_container(OmegaConf.load(file)) for file in files]
    if inner:
        manuals = [manual for manual in manuals if manual.get("_target_") == new[group].get("_target_")]
    return key.endswith(DIGEST) or any(manual.get(inner or key, UNKNOWN) == value for manual in manuals)
