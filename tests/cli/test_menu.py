"""The help and the table of published methods agree with the files in configs/ and with what the methods do."""

import re
from functools import cache
from pathlib import Path

import pytest
from methods.parity import problem

from mpx import config
from mpx.cli import arguments, menu
from mpx.learning.method import GAMES

SMALL = {  # changes for images of 32 px; None: the method needs a transformer
    "cartoonx2022": ["perturbation.levels=2"],
    "waveletx2023": ["perturbation.levels=2"],
    "fong2017_loc": ["perturbation.sigma=3", "score.classes=2"],
    "token_drop": None,
}


@cache
def rows() -> dict[str, dict[str, str]]:
    return {row["experiment"]: row for row in menu.methods()}


def small(name: str) -> list[str]:
    operator = rows()[name]["operator"].split(",")[0]
    if name not in SMALL and operator in ("blur_gaussian", "blur_pyramid", "mix"):
        blur = config.method(name).perturbation
        return ["perturbation.sigma=3", *(["perturbation.kernel_size=11"] if "kernel_size" in blur.keywords else [])]
    return SMALL.get(name, [])


@pytest.mark.parametrize("name", [name for name in config.options("experiment") if SMALL.get(name, ()) is not None])
def test_passes_are_counted_right(name):
    size = ["mask_size=16"] if rows()[name]["mask"].split()[-1].isdigit() else []
    p = problem(name, *small(name), *size)
    p.terms(p.initial().requires_grad_(), 0)
    assert rows()[name]["passes"].split(" ")[0] == f"{p.passes * p.method.steps:.0f}"
    assert p.forwards == 0 or p.mask.starts_from_disc


def test_the_readmes_table_is_the_menus():
    """python -m mpx.cli.menu prints it."""
    readme = (Path(__file__).parents[2] / "configs" / "README.md").read_text()
    table = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", readme, re.S)[1]
    assert table == menu.table(rows().values())


def test_every_game_has_its_passes():
    assert {game: len(terms) for game, terms in GAMES.items()} == menu.PASSES


def test_every_experiment_names_its_paper_in_the_table_and_in_the_help():
    text = menu.help_text()
    for name in config.options("experiment"):
        assert rows()[name]["paper"] and rows()[name]["paper"] in text and f"  {name} " in text


def test_a_folder_of_configurations_may_be_named_anywhere():
    given = ["steps=2", "--config-dir", "my", "perturbation=mine", "-m", "--config-dir=mine"]
    assert arguments.order(given) == ["--config-dir", "my", "-m", "--config-dir=mine", "steps=2", "perturbation=mine"]
    assert arguments.order(["steps=2", "--cfg", "job", "lr=1"]) == ["--cfg", "job", "steps=2", "lr=1"]


@pytest.mark.parametrize("flags", [["--cfg"], ["--nothing"], ["-c", "nothing"], ["--package"]])
def test_a_flag_that_hydra_refuses_is_one_sentence(flags):
    with pytest.raises(ValueError, match="mpx --help shows what may be given"):
        arguments.prepare(arguments.order(flags))
