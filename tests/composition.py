"""What Hydra computes again for every configuration, computed once: tests compose hundreds, of the same thirty files.

Each replacement gives what the original gives. Commands that run in a process of their own (commands.py) have none.
"""

import copy
from functools import cache
from pathlib import Path

import yaml
from hydra._internal import defaults_list
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from mpx import config

compose = config.compose
composed = cache(compose)
parse_rule = OverridesParser.parse_rule
get_mode = Hydra.get_mode
interpolation_map = defaults_list._create_interpolation_map


def compose_once(*overrides, choices=False):
    """A configuration with the node `hydra` also names the working folder."""
    return compose(*overrides, choices=True) if choices else copy.deepcopy(composed(*overrides))


@cache
def parse_yaml(text):
    return yaml.load(text, Loader=get_yaml_loader())


def load(file):
    plain = parse_yaml(Path(file).read_text(encoding="utf-8") if isinstance(file, (str, Path)) else file.read())
    return OmegaConf.create({} if plain is None else plain)


@cache
def parse_override(text):
    return parse_rule(OverridesParser.create(), text, "override")


def parse(parser, text, rule_name):
    return copy.deepcopy(parse_override(text)) if rule_name == "override" else parse_rule(parser, text, rule_name)


def interpolate(overrides, defaults, self_added):
    """Only a default that refers to another needs the map."""
    return interpolation_map(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None


def mode(hydra, config_name, overrides):
    """Hydra composes a command's configuration first for its mode, which only options of these groups set."""
    chosen = any(override.lstrip("+").startswith(("sweep=", "cluster=", "hydra.mode=")) for override in overrides)
    return get_mode(hydra, config_name, overrides) if chosen else None


def replace_all(patch):
    patch.setattr(config, "compose", compose_once)
    patch.setattr(OmegaConf, "load", load)
    patch.setattr(OverridesParser, "parse_rule", parse)
    patch.setattr(defaults_list, "_create_interpolation_map", interpolate)
    patch.setattr(Hydra, "get_mode", mode)
