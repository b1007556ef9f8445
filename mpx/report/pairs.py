"""Pairs: a target and its opposite, two rows of one image (`Task.is_paired`), drawn in two colours from their mask files."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mpx.pictures.colours import overlay_two
from mpx.pictures.encoding import encode_jpeg, encode_png, to_image
from mpx.pictures.pair import PairedRow, draw_paired_rows
from mpx.runs.files import write_file
from mpx.tasks.base import caption, format_value

Arrays = Mapping[str, np.ndarray]  # of a mask file
KEYS = ("photo", "perturbed", "saliency", "image", "class", "game", "quantity", "value_before", "value_after")


def pairs_of_lines(lines: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return the mask files of the two rows of each image and requested area, from lines of results.csv."""
    groups = defaultdict(list)
    for line in lines:
        groups[line["image"], line["requested_area"]].append(line["mask"])
    return [(masks[0], masks[1]) for masks in groups.values() if len(masks) == 2]


def encode_pair(first: Arrays, second: Arrays) -> bytes:
    """Return the evidence of two rows over their photo as a JPEG: the first in orange, the second in blue."""
    photo = _decode(first["photo"])
    return encode_jpeg(to_image(overlay_two(photo, _saliency(first, photo), _saliency(second, photo))))


def write_pair(folder: Path, first: Arrays, second: Arrays, name: str) -> None:
    """Write folder/pairs/<name>.png of two rows with pictures."""
    photo = _decode(first["photo"])
    state = "kept" if first["game"].item() == "preservation" else "deleted"
    page = draw_paired_rows(photo, first["image"].item(), state, _paired_row(first, photo), _paired_row(second, photo))
    write_file(folder / "pairs" / f"{name}.png", encode_png(page))


def _paired_row(stored: Arrays, photo: Tensor) -> PairedRow:
    quantity = stored["quantity"].item()
    before, after = (
        f"{caption(quantity)} {format_value(quantity, stored[key].item())}" for key in ("value_before", "value_after")
    )
    perturbed = _decode(stored["perturbed"]) if "perturbed" in stored else None
    return PairedRow(stored["class"].item(), _saliency(stored, photo), perturbed, before, after)


def _decode(jpeg: np.ndarray) -> Tensor:
    """Return a JPEG (bytes,) uint8 as (3,h,w) in [0,1]."""
    image = Image.open(io.BytesIO(jpeg.tobytes())).convert("RGB")
    return torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0) / 255


def _saliency(stored: Arrays, photo: Tensor) -> Tensor:
    """Return a row's saliency in the size of its photo, (1,h,w)."""
    saliency = torch.from_numpy(stored["saliency"].astype(np.float32))[None, None]
    return F.interpolate(saliency, photo.shape[1:], mode="area")[0]
