"""Files of the user's: none blocks, none unpickles, and what is wrong is one sentence that names the file."""

import json
import os

import numpy as np
import pytest
import torch

from mpx.data.box_files import read_boxes
from mpx.data.class_names import label_function
from mpx.data.mask_files import read_mask
from mpx.data.pascal_xml import read_pascal_xml
from mpx.data.reading import load_numpy, read_json
from mpx.explainers.precomputed import _read_map
from mpx.models.checkpoints import load_weights, read_categories
from mpx.tasks.similarity import from_file

READERS = {
    "m.npy": read_mask,
    "m.png": read_mask,
    "map.npy": lambda path: _read_map(path, "saliency", torch.zeros(1, 3, 8, 8), True),
    "map.npz": lambda path: _read_map(path, "saliency", torch.zeros(1, 3, 8, 8), True),
    "map.png": lambda path: _read_map(path, "saliency", torch.zeros(1, 3, 8, 8), True),
    "vectors.npy": lambda path: from_file(str(path)),
    "p.xml": read_pascal_xml,
    "boxes.json": read_boxes,
    "classes.json": label_function,
    "names.json": read_categories,
    "names.txt": read_categories,
    "weights.pt": lambda path: load_weights(torch.nn.Linear(2, 2), path),
    "weights.safetensors": lambda path: load_weights(torch.nn.Linear(2, 2), path),
}


CONTENTS = ["pipe", "folder", b"", b"\x93NUMPY", b"[" * 10**5, b'{"a": [1}', b"\xff\xfe\0", b"<a><b></a>"]
STATES = [
    {"weight": torch.zeros(2, 2), "bias": None},
    {"weight": torch.zeros(2, 2), 5: torch.zeros(2)},
    {"weight": 1},
    [torch.zeros(2)],
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_something_else(tmp_path, name, content):
    file = tmp_path / name
    if content == "pipe":
        os.mkfifo(file)
    elif content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)
    if name == "names.txt" and content not in ("pipe", "folder", b"\xff\xfe\0"):
        return  # any text holds names
    with pytest.raises(ValueError, match=name) as error:
        READERS[name](file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("state", STATES)
def test_a_state_dict_of_other_things(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt") as error:
        load_weights(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_numpy_and_json_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    np.savez(tmp_path / "a.npz", one=np.eye(2), two=np.eye(3))
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps({"a": 1}))
    assert (load_numpy(tmp_path / "a.npy") == np.eye(2)).all() and read_json(tmp_path / "a.json", "a") == {"a": 1}
    assert {name: len(array) for name, array in load_numpy(tmp_path / "a.npz").items()} == {"one": 2, "two": 3}
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled objects, which are not loaded"):
        load_numpy(tmp_path / "o.npy")
