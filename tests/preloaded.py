"""What every command needs, for the server that commands.py forks them from."""

from importlib import import_module

from hydra.core.plugins import Plugins

for name in (
    "hydra.core.override_parser.overrides_parser",
    "mpx.cli.main",
    "mpx.models.zoo",
    "skimage.measure",
    "skimage.restoration",
    "torch.utils.tensorboard",
):
    import_module(name)
Plugins.instance()  # looks for Hydra's plugins, once
