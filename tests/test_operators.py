"""What all operators share (mpx.operators), and what importing them loads."""

import ast
from functools import partial
from pathlib import Path

import pytest

import mpx
from mpx import config
from mpx.operators import requires_area, unwrap

ROOT = Path(mpx.__file__).parent
OPERATORS = [*(ROOT / "masks").glob("*.py"), *(ROOT / "perturbations").glob("*.py")]
OPERATORS += [ROOT / f"{name}.py" for name in ("scores", "regularizers", "augmentations")]


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.stem)
def test_optional_packages_are_imported_when_an_operator_needs_them(path):
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"timm", "skimage", "pywt", "scipy", "matplotlib"}


def test_options_are_unwrapped():
    assert unwrap(partial(partial(max, key=abs), 1)) is max and unwrap(max) is max


def test_only_the_area_constraint_among_regularizers_needs_an_area():
    needs = [name for name in config.options("regularizer") if requires_area(config.option("regularizer", name))]
    assert needs == ["area"]
