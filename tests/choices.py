"""Which options of the menu a test of pixels can iterate over."""

import inspect

from mpx import config
from mpx.perturbations.blur import PixelPerturbation


def masks_pixels(perturbation: str) -> bool:
    """Not features, tokens or coefficients: those have sites of their own, and tests of their own."""
    function = config.option("perturbation", perturbation).func
    other = isinstance(function, type) and not issubclass(function, PixelPerturbation)
    return not other and "classifier" not in inspect.signature(function).parameters


PERTURBATIONS = [name for name in config.options("perturbation") if masks_pixels(name)]
# what regularizers see of the others, their own tests show them
REGULARIZERS = [name for name in config.options("regularizer") if name not in ("information", "spatial_l1", "spectrum")]
# log-odds, margins and coin tosses have their own shapes: tests/operators/test_mask_kinds.py
GRIDS = [name for name in config.options("mask") if name not in ("bernoulli", "contour", "pair", "ratio")]
