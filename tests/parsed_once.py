"""Tests compose hundreds of configurations of the same thirty YAML files: in their processes each text is parsed once."""

from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader


@cache
def _parse(text: str):
    return yaml.load(text, Loader=get_yaml_loader())


def load(file):
    """In place of OmegaConf.load."""
    plain = _parse(Path(file).read_text(encoding="utf-8") if isinstance(file, (str, Path)) else file.read())
    return OmegaConf.create({} if plain is None else plain)
