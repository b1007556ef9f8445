"""Options of the menu that a test of pixels can iterate over."""

from mpx import config

NOT_PIXELS = ("bottleneck", "channels", "token_drop", "wavelets")  # perturbations of features, tokens and coefficients
PERTURBATIONS = [name for name in config.options("perturbation") if name not in NOT_PIXELS]
# regularizers of these need their own perturbation or mask, and have tests of their own
REGULARIZERS = [name for name in config.options("regularizer") if name not in ("information", "spatial_l1", "spectrum")]
# log-odds, margins and coin tosses have their own shapes: tests/masks/test_mask_kinds.py
GRIDS = [name for name in config.options("mask") if name not in ("bernoulli", "contour", "pair", "ratio")]
