"""Options of the menu that a test of pixels can iterate over."""

from functools import partial

from mpx import config

NOT_PIXELS = ("bottleneck", "channels", "token_drop", "wavelets")  # perturbations of features, tokens and coefficients
PERTURBATIONS = [name for name in config.options("perturbation") if name not in NOT_PIXELS]
# regularizers of these need their own perturbation or mask, and have tests of their own
REGULARIZERS = [name for name in config.options("regularizer") if name not in ("information", "spatial_l1", "spectrum")]
# log-odds, margins and coin tosses have their own shapes: tests/masks/test_mask_kinds.py
GRIDS = [name for name in config.options("mask") if name not in ("bernoulli", "contour", "pair", "ratio")]

SMALL = {
    "blur_gaussian": {"sigma": 3.0},
    "blur_pyramid": {"sigma": 3.0},
    "blur_mean": {"sigma": 3.0},
    "inpaint": {"tile": 4},
    "local_mean": {"window": 7},
    "mix": {"sigma": 3.0},
}  # strengths that fit images of 32 pixels


def small_perturbation(name: str):
    """The option of the menu, at a strength that fits images of 32 pixels."""
    return partial(config.option("perturbation", name), **SMALL.get(name, {}))
