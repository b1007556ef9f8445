"""Images of any number of channels as tensors: arrays, and .npy, .npz and TIFF files.

An array is (H,W), (H,W,C) or (C,H,W): the axis that has as many entries as the model has channels is C. Floats are in [0,1],
uint8 is divided by 255 and uint16 by 65535. Nothing is unpickled.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpx.data.reading import load_numpy

ARRAY_SUFFIXES = (".npy", ".npz")
TIFF_SUFFIXES = (".tif", ".tiff")


def load_array(path: Path) -> np.ndarray:
    """Return the array in a .npy file, or the only one, or the one named image, of a .npz file."""
    loaded = load_numpy(path)
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded) != 1 and "image" not in loaded:
        raise ValueError(f"it holds {len(loaded)} arrays ({', '.join(list(loaded)[:5])}); name one of them image")
    return loaded["image"] if "image" in loaded else next(iter(loaded.values()))


def load_tiff(path: Path) -> np.ndarray:
    """Return all pages, or all bands, of a TIFF file."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        return file.series[0].asarray()


def to_pixels(array: np.ndarray, channels: int) -> Tensor:
    """Return an array as (C,H,W) float32 in [0,1]."""
    shape = array.shape
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and shape[-1] == channels:
        array = np.moveaxis(array, -1, 0)
    if array.ndim != 3 or array.shape[0] != channels or not array.size:
        orders = "(H,W), (H,W,1) or (1,H,W)" if channels == 1 else f"(H,W,{channels}) or ({channels},H,W)"
        raise ValueError(f"its shape is {shape}, but a model of {count_channels(channels)} takes {orders}")
    return torch.from_numpy(np.ascontiguousarray(_scaled(array)))


def count_channels(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _scaled(array: np.ndarray) -> np.ndarray:
    """Return float32 in [0,1]."""
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if array.dtype.kind != "f":
        raise ValueError(f"its numbers are {array.dtype}, of unknown range; save floats in [0,1], uint8 or uint16")
    low, high = float(array.min()), float(array.max())
    if not (0 <= low and high <= 1):
        raise ValueError(f"its values range from {low:.4g} to {high:.4g}; scale them to [0,1]")
    return array.astype(np.float32)
