"""What every test gets, and the command line in a folder of planted photos.

The fixtures import what they need: the process that only hands out the tests then loads no torch.
"""

import gc
import sys
from pathlib import Path

import pytest

NETWORK = """
import gc
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
def composed_once():
    """Tests compose two thousand configurations of the same files, so Hydra is spared what has the same result.

    A YAML text is parsed once, and the same command line composed once. Before a command Hydra composes it only to read
    hydra.mode, which few files set. For each file it collects what defaults with an interpolation could name; none has. It
    copies the folders' contents deeply, of which it changes only the list of folders.
    """
    import copy
    import os

    from hydra._internal import defaults_list
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.hydra import Hydra
    from omegaconf import OmegaConf
    from parsed_once import load

    from mpx.config_schema import CONFIGS

    composed = {}
    with_mode = {path.parent.name for path in CONFIGS.glob("*/*.yaml") if "mode: MULTIRUN" in path.read_text("utf-8")}
    with_mode.add("hydra.mode")

    def get_mode(hydra, config_name, overrides, original=Hydra.get_mode):
        sets_mode = any(override.lstrip("+").partition("=")[0] in with_mode for override in overrides)
        return original(hydra, config_name, overrides) if sets_mode else None

    def begin(repository, delegate):
        repository.delegate, repository.cache = copy.copy(delegate), {}

    def load_configuration(loader, config_name, overrides, *args, original=ConfigLoaderImpl.load_configuration, **options):
        sources = [source.path for source in loader.get_sources()]
        if len(sources) != 3 or any("searchpath" in override for override in overrides):  # a user's files may change
            return original(loader, config_name, overrides, *args, **options)
        key = (os.getcwd(), config_name, *sources, *overrides, *args, *map(str, options.items()))
        if key not in composed:
            composed[key] = original(loader, config_name, overrides, *args, **options)
        return copy.deepcopy(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        patch.setattr(Hydra, "get_mode", get_mode)
        patch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
        patch.setattr(CachingConfigRepository, "__init__", begin)
        patch.setattr(defaults_list, "_create_interpolation_map", lambda *_: None)
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


def pytest_collection_finish(session):
    """What is imported by now stays, so the garbage collector need not walk through it; nor often through what is new."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
