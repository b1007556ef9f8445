"""The user's own network: weights and names from files, good and bad."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mpx.models import zoo
from mpx.models.checkpoints import load_weights, read_categories
from mpx.models.checks import check_classifier

BUILD = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))\n"


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.module.{k}": v for k, v in s.items()}},
    ],
)
def test_layouts(tmp_path, wrap):
    source, target = network(), network()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters()))


def test_safetensors(tmp_path):
    source, target = network(), network()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(source[1].weight, target[1].weight)


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_refusals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = network().state_dict()
    torch.save({**good, "extra.weight": torch.ones(1)}, "more.pth")
    torch.save({"1.weight": good["1.weight"]}, "less.pth")
    torch.save(nn.Linear(12, 4).state_dict(), "other.pth")
    torch.save({**good, "1.bias": torch.ones(4)}, "shape.pth")
    torch.save([1, 2], "list.pth")
    torch.save(network(), "whole.pth")  # a pickled module: code
    for name, data in {
        "page.pth": b"<html>",
        "empty.pth": b"",
        "page.safetensors": b"<html>",
        "evil.pth": pickle.dumps(Evil(), protocol=2),
    }.items():
        (tmp_path / name).write_bytes(data)
    for name, words in {
        "more.pth": "1 unexpected.*extra.weight",
        "less.pth": "1 keys missing.*1.bias",
        "other.pth": "unexpected.*weight",
        "shape.pth": r"1.bias is \(4,\)",
        "list.pth": "no state dict",
        "whole.pth": "without running code",
        "page.pth": "without running",
        "empty.pth": "without running",
        "page.safetensors": "without running",
        "evil.pth": "without running",
        "gone.pth": "no such file",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            load_weights(network(), name)
        assert name in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_categories(tmp_path):
    for name, text in {
        "a.txt": "\ufeffcat\ndog\nbird\n\n",
        "a.json": '["cat", "dog", "bird"]',
        "b.json": '{"2": "bird", "0": "cat", "1": "dog"}',
        "c.json": json.dumps({i: [f"n{i}", n] for i, n in enumerate(("cat", "dog", "bird"))}),
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_categories(tmp_path / name) == ["cat", "dog", "bird"]
    for name, text in {"d.json": '{"1": "cat"}', "e.json": "not json"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            read_categories(tmp_path / name)
    with pytest.raises(ValueError, match="gone.txt"):
        read_categories(tmp_path / "gone.txt")


def test_code_in_a_file_runs_only_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target = network(), network()
    torch.save({"state_dict": source.state_dict(), "callback": Evil()}, "w.pth")
    for trust, words in ((None, "model.trust"), ("yes", "must say in words")):
        with pytest.raises(ValueError, match=words):
            load_weights(target, "w.pth", trust)
    assert not (tmp_path / "executed").exists()
    load_weights(target, "w.pth", "from our own training")
    assert torch.equal(source[1].weight, target[1].weight) and (tmp_path / "executed").exists()


def test_custom_networks(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(BUILD)
    monkeypatch.syspath_prepend(tmp_path)
    for given in (network(), "mynet:build", f"{tmp_path}/mynet.py:build"):
        classifier = zoo.custom(given, size=2, categories=["a", "b", "c"], mean=[0.5, 0.5, 0.5], std=0.5)
        assert check_classifier(classifier, torch.rand(1, 3, 2, 2)).shape == (1, 3)
        assert classifier.preprocess == zoo.Preprocess((2, 2), 2) and classifier.categories == ("a", "b", "c")
    assert zoo.custom(network(), size=[2, 4]).preprocess == zoo.Preprocess((2, 4), 4)
    for given, words in [
        ("mynet", "expected package.module:function"),
        ("mynet:gone", "gone"),
        (f"{tmp_path}/gone.py:build", "gone.py"),
        ("builtins:dict", "torch.nn.Module, got dict"),
    ]:
        with pytest.raises(ValueError, match=words):
            zoo.custom(given)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(ValueError, match="names.txt.*not a regular file"):
        read_categories(tmp_path / "names.txt")
