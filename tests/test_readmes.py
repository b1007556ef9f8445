"""The READMEs and the notebook: every link leads somewhere, every option exists, every example runs."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import torch

from mpx import config
from mpx.cli.versus import as_sweep
from mpx.data.synthetic import synthetic
from mpx.masks.base import MaskContext
from mpx.metrics.base import MetricContext, Need

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / name for name in ("README.md", "configs/README.md", "scripts/README.md", "mpx/README.md", "outputs/README.md")
]
GROUPS = sorted(path.name for path in config.CONFIGS.iterdir() if path.is_dir())
IDS = [path.relative_to(ROOT).as_posix() for path in READMES]
EXAMPLE = re.compile(r"^`([\w/.]+)`(, at the end)?\n\n```(?:python|yaml)\n(.*?)^```", re.M | re.S)
DEVELOPMENT = (ROOT / "mpx/README.md").read_text()
NEW = {path for path, _, _ in EXAMPLE.findall(DEVELOPMENT)}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_page_is_short():
    assert len(READMES[0].read_text().splitlines()) <= 200


@pytest.mark.parametrize("path", READMES, ids=IDS)
def test_links_lead_somewhere(path):
    for file in re.findall(r"(?<![\w/])(?:tests|scripts)/[\w/]+(?:\.\w+)?", path.read_text()):
        assert (ROOT / file).exists(), file
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith("http"):
            continue
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), link
        assert not anchor or anchor in anchors(page), link


def commands(path: Path) -> list[list[str]]:
    """Overrides of every command of mpx in the page's shell blocks, comments left out."""
    result = []
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split("&&")[-1], comments=True)
            start = next(
                (k for k, word in enumerate(words) if word in ("mpx", "scripts/run.py", "scripts/evaluate.py")), None
            )
            if start is not None:
                result.append(words[start + 1 :])
    return result


@pytest.mark.parametrize("path", READMES, ids=IDS)
def test_commands_compose(path):
    """Every option and key of a command exists. Launchers and sweepers are plugins that may not be installed."""
    for words in commands(path):
        as_sweep(words, [])
        others = ("-", "cluster=", "hydra.launcher", "sweep=", "run=", "versus=")
        overrides = [word for word in words if not word.startswith(others)]
        if "--config-dir" in words or "(mpx" in words:
            continue
        for word in words:
            assert not word.startswith("sweep=") or word[6:] in config.options("sweep")
        if "-m" in words or any(word.startswith("sweep=") for word in words):
            overrides = [re.sub(r"^(\w+=[^\[,]+),.*", r"\1", word) for word in overrides]  # the first of an axis
        config.build_method(config.compose(*overrides))


@pytest.mark.parametrize("path", READMES, ids=IDS)
def test_options_in_the_text_exist(path):
    """`group=option` in the text names an option, `group.key=` a key of some option."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for code in re.findall(r"`([^`]+)`", text):
        for group, value in re.findall(r"(?<![\w.])(\w+)=(\[[\w,]+\]|\w+)", code):
            if group in GROUPS:
                for name in value.strip("[]").split(","):
                    assert name in config.options(group) or name == "null" or f"configs/{group}/{name}.yaml" in NEW, code


def test_the_contracts_are_listed_in_full():
    """What needs= takes, and the fields of the contexts that metrics and masks get."""
    words = {word.strip('"') for word in re.findall(r"`([^`\n]+)`", DEVELOPMENT)}
    words |= {word.removeprefix("context.") for word in words}
    for names in (get_args(Need), *([field.name for field in fields(kind)] for kind in (MetricContext, MaskContext))):
        assert not {*names} - words - {re.split(r"\W", word)[0] for word in words}


def test_examples_of_the_library_run(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_lightning")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 300, 16, 16), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    scope = {"network": network, "images": torch.rand(2, 3, 64, 64), "targets": torch.tensor([3, 285])}
    for block in blocks(READMES[0], "python"):
        exec(block, scope)
    (curves,) = (tmp_path / "logs").rglob("metrics.csv")
    steps = [int(line["step"]) for line in csv.DictReader(curves.open()) if line["loss/total"]]
    assert (tmp_path / "panel.png").exists() and steps[:3] == [9, 19, 29]


SMALL = ("model=synthetic", "dataset=synthetic", "limit=2", "target=label", "metric=[]", "steps=6", "threads=1")
SMALL += ("mask_size=8", "perturbation.sigma=5")


def run(folder: Path, *overrides: str) -> str:
    command = [sys.executable, ROOT / "scripts" / "run.py", *overrides]
    environment = os.environ | {"PYTHONPATH": str(folder if (folder / "mpx").exists() else ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_reading_a_run_without_mpx(tmp_path, monkeypatch, mpx):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    code, out, err = mpx(*SMALL, "name=val", "metric=[mass]")
    assert code == 0, out + err
    scope = {}
    for block in blocks(READMES[4], "python"):
        exec(block, scope)
    assert scope["row"]["saliency"].shape == (128, 128) and len(scope["rows"]) == 2 and len(scope["curves"]["total"]) == 6


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of mpx with every example of mpx/README.md typed as written."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("mpx", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, at_the_end, text in EXAMPLE.findall(DEVELOPMENT):
        assert (folder / path).exists() == bool(at_the_end), path
        with open(folder / path, "a") as file:
            file.write("\n\n" * bool(at_the_end) + text)
    return folder


@pytest.mark.slow
def test_examples_of_parts_run(extended):
    text = run(
        extended, *SMALL[:-1], "perturbation=pixelate", "mask=diamonds", "regularizer=[l1,tv,off_centre]",
        "score=centred_logit", "augment=[jitter,brightness]", "brightness=0.2", "metric=[coverage]",
        "optimizer=sign_descent", "stop=patience", "callbacks=[lowest_loss]", "callbacks.lowest_loss.every=2",
        "logger=[json_lines]", "name=parts",
    )  # fmt: skip
    assert "lowest loss" in text and "coverage" in text
    assert "score/value" in (extended / "outputs/parts/log.jsonl").read_text()


@pytest.mark.slow
def test_examples_of_parts_have_types(extended):
    shutil.copy(ROOT / "pyproject.toml", extended)
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=extended, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_example_of_an_explainer_and_a_dataset_run(extended):
    (extended / "photos").mkdir()
    for k, item in enumerate(synthetic(extended / "synthetic", count=2)):
        shutil.copy(item.path, extended / "photos" / f"amber_{k}.png")
    text = run(
        extended, "model=synthetic", "dataset=prefixed", "dataset.root=photos", "target=label", "metric=[]",
        "explainer=input_times_gradient", "name=explainer", "threads=1",
    )  # fmt: skip
    assert "amber" in text


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "scripts" / "tour.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # strip outputs before a commit
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
