"""Weights and class names from the user's files.

Nothing in a file is executed (`weights_only`, safetensors, JSON, text), unless the user states why it may be trusted.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpx.data.reading import regular_file

PREFIXES = ("module.", "model.", "network.", "_orig_mod.")  # DataParallel, LightningModules, torch.compile


def is_file(path: str | Path) -> bool:
    """Return whether the path, which may begin with ~, is a file."""
    return Path(path).expanduser().is_file()


def load_weights(network: nn.Module, path: str | Path, trust: str | None = None) -> None:
    """Load a checkpoint into the network, strictly: a state dict, or a dict with one under "state_dict" or "model".

    trust: why the code that a pickle may hold can run; None: it does not run.
    """
    state, expected = read_state(path, trust), network.state_dict()
    while not state.keys() & expected.keys():  # strip a prefix that all keys share, then compare again
        prefix = next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    shapes = [
        f"{key} is {tuple(value.shape)} in the file, {tuple(expected[key].shape)} in the network"
        for key, value in state.items()
        if key in expected and isinstance(value, Tensor) and value.shape != expected[key].shape
    ]
    if shapes:
        raise ValueError(f"weights {str(path)!r} do not fit the network: {'; '.join(shapes[:3])} ({len(shapes)} such)")
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except Exception as error:  # a value that is no tensor, or one of another kind
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"weights {str(path)!r} do not fit the network: {reason}") from error
    if missing or unexpected:
        raise ValueError(
            f"weights {str(path)!r} do not fit the network: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )


def read_state(path: str | Path, trust: str | None = None) -> dict[str, Tensor]:
    """Return the state dict in a file. trust: see `load_weights`; at least two words, e.g. "our own training of May"."""
    if trust is not None and len(str(trust).split()) < 2:
        raise ValueError(f"trust={trust!r} must say in words why the code in {str(path)!r} may run")
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"weights {str(path)!r}: there is no such file")
    try:
        state = _read_file(path, weights_only=trust is None)
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, SafetensorError, ...
        raise ValueError(
            f"weights {str(path)!r} are not a checkpoint that can be read without running code "
            f"({type(error).__name__}): save network.state_dict() instead, or state in model.trust why its code may run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if (
        not isinstance(state, dict)
        or not all(isinstance(key, str) for key in state)
        or not any(isinstance(value, Tensor) for value in state.values())
    ):
        raise ValueError(f"weights {str(path)!r} hold no state dict but {type(state).__name__}: save network.state_dict()")
    return state


def _read_file(path: Path, weights_only: bool) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=weights_only)


def read_categories(path: str | Path) -> list[str]:
    """Return the class names in a file: a name per line, or JSON.

    JSON: ["name", ...], {"0": "name", ...} or {"0": ["wnid", "name"], ...}.
    """
    try:
        text = regular_file(path).read_text(encoding="utf-8-sig")
        if Path(path).suffix != ".json":
            return [line.strip() for line in text.strip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            names = [names[str(i)] for i in range(len(names))]
        names = [name if isinstance(name, str) else name[-1] for name in names]
        if others := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"{others[0]!r} is no name")
        return names
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(
            f"categories {str(path)!r} are neither a text file with a name per line nor a JSON list or "
            f'{{"0": "name", ...}} ({type(error).__name__}: {error})'
        ) from error
