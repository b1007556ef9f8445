"""What hypothesis throws at the command: values of overrides, damaged files, and arrays of any kind."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from mpx.config_schema import CONFIGS, groups, options

NUMBERS = [0, 1, 2, -1, 3, 0.5, -0.5, 1e-320, 1e38, 1e308, 2**31, 2**63, 10**30, float("nan"), float("inf"), -float("inf")]
WORDS = ["", " ", "${oc.env:NOTHING}", "a" * 300, "é日本\u202e\n", "\udcff", f"top{10**30}", "net.py:build", "checker board"]
WORDS += "??? null ${lr} ${nothing} ${ %s{} [ top1 top0 label auto photos photos/p00.png names.txt net.py pipe loop".split()
WORDS += f"nothing 0/1 1/0 1/{10**9} cuda:99 mps meta".split()
TARGETS = """os.system sys.exit builtins.print torch.zeros torch.nn.Linear torch.optim.LBFGS mpx mpx. .
mpx.nothing net.SquareNet math.nan json.loads nowhere.nothing mpx.masks.grid.Grid mpx.scores.hinge
mpx.perturbations.blur.blur_gaussian
mpx.metrics.iou.iou mpx.data.datasets.images mpx.models.zoo.custom""".split()
BYTES = [b"", b"0", b"-1", b"NaN", b"1e999", b"null", b"[]", b"{}", b'""', b"true", b"99999999999999999999", b'"x"', b"1.5",
         b"[" * 5000]  # in place of a number or a text  # fmt: skip
TYPES = ["?", "i1", "u1", "i8", "u2", "f2", "f4", "f8", "c8", "U3", "S2", "M8[s]", "V4", "u1,f4"]  # of arrays


def text():
    """No path out of the working folder, and none of the characters that no argument can have."""
    drawn = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    return st.sampled_from(WORDS) | drawn.filter(lambda word: not word.startswith(("/", "~")) and ".." not in word)


def values():
    numbers = st.sampled_from(NUMBERS) | st.integers() | st.integers(0, 40) | st.floats()
    leaves = st.none() | st.booleans() | numbers | text()
    return leaves | numbers | st.lists(leaves, max_size=4) | st.dictionaries(text(), leaves, max_size=2)


def written(value) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{written(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return (
        {None: "null", True: "true", False: "false"}.get(value, repr(value))
        if value is None or value in (0, 1)
        else repr(value)
    )


def leaves(node, key="") -> list[str]:
    """The keys of all values of a node; also of nodes, to which values are given too."""
    inner = (
        [leaf for name, item in node.items() for leaf in leaves(item, f"{key}.{name}".lstrip("."))]
        if isinstance(node, dict)
        else []
    )
    return [key, *inner] if key else inner


def menu() -> list[tuple[str, str, list[str]]]:
    """(group, option, keys) of every option; a group of root keys comes first, without an option."""
    from parsed_once import load

    found = [
        ("", "", leaves({key: value for key, value in _plain(load(CONFIGS / "config.yaml")).items() if key != "hydra"}))
    ]
    for group in groups():
        for option in options(group):
            node = _plain(load(CONFIGS / group / f"{option}.yaml"))
            is_global = "@package _global_" in (CONFIGS / group / f"{option}.yaml").read_text()
            keys = [key for key in leaves(node, "" if is_global else group) if not key.startswith("hydra") and key != group]
            found += [(group, option, keys)] if keys else []
    return found


def _plain(node) -> dict:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node)
    return {key: value for key, value in plain.items() if key != "defaults"}


# ---- files


@st.composite
def damages(draw, data: bytes):
    """The bytes of a file, damaged."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)) | st.integers(0, min(64, max(0, len(data) - 1))))
        until = min(len(data), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "byte", "insert", "remove", "repeat", "token", "token", "token"]))
        if kind == "cut":
            data = data[:at]
        elif kind == "byte":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
        elif kind == "remove":
            data = data[:at] + data[until:]
        elif kind == "repeat":
            data = data[:at] + data[at:until] * draw(st.integers(2, 50)) + data[until:]
        elif tokens := list(re.finditer(rb'-?\d+(?:\.\d+)?|"[^"]*"|\w+', data)):
            token = draw(st.sampled_from(tokens[:2000]))
            data = data[: token.start()] + draw(st.sampled_from(BYTES)) + data[token.end() :]
    return data


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 32, 33]), max_size=4))
    kind = np.dtype(draw(st.sampled_from(TYPES)))
    numbers = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 255, (int(np.prod(shape)), kind.itemsize), np.uint8)
    scale = draw(st.sampled_from([None, 0, 1, -1, np.nan, np.inf]))
    if scale is not None and kind.kind in "fc":
        return np.full(shape, scale, kind)
    return numbers.copy().view(kind).reshape(shape) if numbers.size else np.zeros(shape, kind)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@st.composite
def npz(draw, data: bytes):
    """An .npz of which an entry is another array, or is gone."""
    with np.load(io.BytesIO(data)) as loaded:
        entries = {key: loaded[key] for key in loaded.files}
    key = draw(st.sampled_from(sorted(entries)))
    entries.pop(key)
    if draw(st.integers(0, 3)):
        new = draw(arrays() | text().map(np.array) | st.sampled_from(NUMBERS[:12]).map(np.array))
        entries[key] = new
    file = io.BytesIO()
    np.savez_compressed(file, **entries)
    return file.getvalue()


@st.composite
def trees(draw, data: bytes):
    """JSON of which a node is something else."""
    tree = json.loads(data)
    spots, todo = [], [tree]
    while todo:
        node = todo.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, item in items:
            spots.append((node, key))
            todo.append(item)
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NUMBERS)
    other = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    )
    if not spots or draw(st.integers(0, 9)) == 0:
        return json.dumps(draw(other)).encode()
    node, key = draw(st.sampled_from(spots))
    if isinstance(node, dict) and draw(st.integers(0, 3)) == 0:
        del node[key]
    else:
        node[key] = draw(other)
    return json.dumps(tree).encode()


@st.composite
def checkpoints(draw, data: bytes):
    """torch.save of a state dict of which an entry is something else."""
    state = torch.load(io.BytesIO(data))
    key = draw(st.sampled_from([*state, "more"]))
    kinds = [torch.float64, torch.complex64, torch.int64, torch.bool, torch.float16]
    tensor = st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(kinds)).map(
        lambda pair: torch.zeros(pair[0], dtype=pair[1])
    )
    state[draw(st.sampled_from([key, "model", "state_dict", 5]))] = draw(
        tensor | st.none() | st.integers() | st.just(state.copy()) | st.text(max_size=3)
    )
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def kinds_of_damage(name: str, data: bytes):
    """Every way in which the bytes of a file of this name are damaged."""
    kinds = [damages(data), damages(data)]
    suffix = Path(name).suffix
    if suffix == ".npy":
        kinds += [arrays().map(npy)] * 2
    if suffix == ".npz":
        kinds += [npz(data)] * 2
    if suffix == ".json":
        kinds += [trees(data)] * 2
    if suffix == ".pt":
        kinds += [checkpoints(data)] * 2
    return st.one_of(*kinds, st.sampled_from(["gone", "empty", "pipe", "folder", "loop", "dead"]))


def put(path: Path, content) -> None:
    """Let the path be a file of these bytes, or another kind of file."""
    path.unlink(missing_ok=True)
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content in ("loop", "dead"):
        path.symlink_to(path.name if content == "loop" else "nowhere")
    elif content == "empty":
        path.write_bytes(b"")
    elif content != "gone":
        path.write_bytes(content)


def restore(path: Path, data: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(data)
