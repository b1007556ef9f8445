"""Weights and class names from the user's files. Nothing in them is executed (`weights_only`, safetensors, JSON, text), but
where the user says why a file may be trusted.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

PREFIXES = ("module.", "model.", "network.", "_orig_mod.")  # DataParallel, LightningModules, torch.compile


def load_weights(network: nn.Module, path: str | Path, trust: str | None = None) -> None:
    """Into the network, strictly. The file holds a state dict, or a dict with one under "state_dict" or "model"."""
    state, wanted = read_state(path, trust), network.state_dict()
    while not state.keys() & wanted.keys():  # strip a prefix that all keys share, then look again
        prefix = next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    shapes = [
        f"{key} is {tuple(value.shape)} in the file, {tuple(wanted[key].shape)} in the network"
        for key, value in state.items()
        if key in wanted and isinstance(value, Tensor) and value.shape != wanted[key].shape
    ]
    if shapes:
        raise ValueError(f"weights {str(path)!r} do not fit the network: {'; '.join(shapes[:3])} ({len(shapes)} such)")
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"weights {str(path)!r} do not fit the network: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )


def read_state(path: str | Path, trust: str | None = None) -> dict[str, Tensor]:
    """trust: why the code that a pickle may hold is run, e.g. "our own training of May"; null: it is not."""
    if trust is not None and len(str(trust).split()) < 2:
        raise ValueError(f"trust={trust!r} must say in words why the code in {str(path)!r} may be run")
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"weights {str(path)!r}: there is no such file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=trust is None)
        )
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, SafetensorError, ...
        raise ValueError(
            f"weights {str(path)!r} are not a checkpoint that can be read without running code "
            f"({type(error).__name__}): save network.state_dict() instead, or say by model.trust why its code may be run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights {str(path)!r} hold no state dict but {type(state).__name__}: save network.state_dict()")
    return state


def read_categories(path: str | Path) -> list[str]:
    """A name per line, or JSON: ["name", ...], {"0": "name", ...} or {"0": ["wnid", "name"], ...}."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        if Path(path).suffix != ".json":
            return [line.strip() for line in text.strip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            names = [names[str(i)] for i in range(len(names))]
        return [name if isinstance(name, str) else name[-1] for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"categories {str(path)!r} are neither a text file with a name per line nor a JSON list or "
            f'{{"0": "name", ...}} ({type(error).__name__}: {error})'
        ) from error
