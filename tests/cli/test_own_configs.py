"""Mistakes in configurations of the user's own, and nodes that are no parts: one sentence with the file or the key."""

import os

import pytest
from omegaconf import OmegaConf
from planted import SQUARE

from mpx.cli import arguments
from mpx.config_errors import error_sentence, other_part_sentence
from mpx.config_plan import build_plan, compose_plan
from mpx.config_schema import compose

TEXTS = [
    ("steps: 1\n   lr: 2\n", r"mine.yaml, line 2: mapping values are not allowed here; look at its indentation"),
    ("mask:\n\tsigma: 1\n", r"mine.yaml, line 2: found character '.t' that cannot start any token"),
    ("steps: 1\nsteps: 2\n", "mine.yaml, line 2: found duplicate key steps"),
    ("steps: !!python/object/apply:os.system [ls]\n", "mine.yaml, line 1: could not determine a constructor"),
    ("- 1\n", "mine.yaml: it must hold keys with values"),
    (b"# gr\xfc\xdfe\nsteps: 1\n", "mine.yaml: 'utf-8' codec can't decode byte 0xfc"),
    ("[" * 400, "mine.yaml"),
    (None, "mine.yaml: it is not a regular file"),
]


@pytest.mark.parametrize("content, words", TEXTS)
@pytest.mark.parametrize("way", [["--config-dir={}"], ["--config-dir", "{}"], ["-cd", "{}"]])
def test_a_yaml_that_cannot_be_read_is_named_with_its_line(tmp_path, content, words, way):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    if content is None:
        os.mkfifo(file)  # must not block
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=words) as error:
        arguments.prepare([*(word.format(tmp_path) for word in way), "experiment=mine"])
    assert len(error_sentence(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("metrics", True, "metrics=True must hold parts"),
        ("regularizers", 2, "regularizers=2 must hold parts"),
        ("input_augmentations", "noise", "input_augmentations='noise' must hold parts"),
        ("mask", "grid", "mask='grid' is no part: choose one of bernoulli"),
        ("trainer", 5, "trainer=5 is no part"),
        ("scheduler", 5, "scheduler has no _target_"),
    ],
)
def test_a_node_that_is_no_part(tmp_path, key, value, words):
    cfg = compose(*SQUARE, choices=True)
    choices = dict(cfg.hydra.runtime.choices)
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"]), resolve=True)
    with pytest.raises(ValueError, match=words):
        build_plan(OmegaConf.create(plain | {key: value}), tmp_path, choices, [])


@pytest.mark.parametrize(
    "override, words",
    [
        ("perturbation._target_=os.system", "Target 'os.system' is blocklisted because it allows config data to control"),
        ("perturbation._target_='.'", "a dotted path has a name before and after each dot"),
        ("perturbation._partial_=7", "add the line _partial_: true"),
        ("trainer.devices=1000000", "trainer.devices=1000000 processes are too many"),
        ("device='x\x1b[31m'", "device='x.x1b.31m' must be auto"),
    ],
)
def test_a_value_that_no_part_has(override, words):
    from mpx.runs.devices import worker_devices
    from mpx.runs.shares import Share

    with pytest.raises(ValueError, match=words):
        plan = compose_plan(*SQUARE, override)
        worker_devices(plan.device, plan.trainer_devices, Share())


def test_an_error_of_a_part_that_is_not_of_the_menu_names_it():
    cfg = compose("mask._target_=torch.zeros", "metric=[deletion]")
    assert "KeyError: 'x': does mask: _target_ torch.zeros take" in other_part_sentence(KeyError("x"), cfg)
    for overrides in ([], ["experiment=rde2019", "augment=[crop]", "regularizer=[area]", "logger=[csv]", "task=detection"]):
        assert not other_part_sentence(KeyError("x"), compose(*overrides))


def test_no_value_drives_the_terminal():
    assert error_sentence(ValueError("a\x1b[31m\nb\u202ec\udcff")) == "a\\x1b[31m\\nb\\u202ec\\udcff"
