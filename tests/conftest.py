"""What every test gets, and the command line in a folder of planted photos.

The fixtures import what they need: the process that only hands out the tests then loads no torch.
"""

import sys
from pathlib import Path

import pytest

NETWORK = """
import sys
sys.path.insert(0, {tests!r})
from planted import SquareNet
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The networks here are tiny, and threads that contend for a core are many times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def yaml_parsed_once():
    """Tests compose hundreds of configurations of the same thirty files."""
    from omegaconf import OmegaConf
    from parsed_once import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with three photos for SquareNet, its module and its class names."""
    from planted import SquareNet, square_photo
    from torchvision.transforms.v2.functional import to_pil_image

    (tmp_path / "photos").mkdir()
    for seed in range(3):
        to_pil_image(square_photo(SquareNet(), seed)).save(tmp_path / "photos" / f"p{seed}.png")
    (tmp_path / "net.py").write_text(NETWORK.format(tests=str(Path(__file__).parent)))
    (tmp_path / "names.txt").write_text("nothing\nchecker board\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mpx(monkeypatch, capfd):
    """mpx(arguments...) -> (exit code, stdout, stderr), in this process."""
    from mpx.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mpx", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def explanation():
    """explanation(size, game, names, classes, steps, frames) -> a synthetic Explanation."""
    from synthetic_explanation import make_explanation

    return make_explanation
