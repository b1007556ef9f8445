"""Modules that commands use, imported once in the server that commands.py forks them from."""

from importlib import import_module

from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from parsed_once import load

from mpx.config_schema import compose

for name in (
    "hydra.core.override_parser.overrides_parser",
    "mpx.cli.main",
    "mpx.cli.finished",
    "mpx.report.sweep",
    "mpx.runs.run",
    "mpx.models.zoo",
    "skimage.measure",
    "skimage.restoration",
    "torch.utils.tensorboard",
):
    import_module(name)
Plugins.instance()  # scans for Hydra's plugins once
OmegaConf.load = load  # the files of configs/ are parsed once, here
compose()

