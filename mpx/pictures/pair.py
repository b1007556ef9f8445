"""Two rows of one image in one picture: the evidence of each in its own colour, e.g. for either class of a difference."""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, overlay_two
from mpx.pictures.encoding import to_tile
from mpx.pictures.panel import panel_layout
from mpx.pictures.text import PAPER, draw_text


class PairedRow(NamedTuple):
    """One of the two rows."""

    name: str  # of its target
    saliency: Tensor  # (1,H,W)
    perturbed: Tensor | None  # (3,H,W) the image under its mask; None where the mask acts inside the network
    before: str  # value on the image
    after: str  # value under its mask


def draw_pair(explanation: PicturedExplanation, first: int = 0, second: int = 1) -> Image.Image:
    """Draw image | evidence of both rows | image under the first row's mask | under the second row's."""
    e = explanation
    if not torch.equal(e.images[first], e.images[second]):
        raise ValueError(f"rows {first} and {second} are of different images: give two targets of one image")
    rows = []
    for row in (first, second):
        named = [answer.name for answer in e.answers_before[row] if answer.is_target]
        before, after = (e.task.format(float(x[row])) for x in (e.value_before, e.value_after))
        picture = as_rgb(e.perturbed[row], e.bands)
        rows.append(PairedRow((named or [e.classes[row]])[0], e.saliency[row], picture, before, after))
    return draw_paired_rows(as_rgb(e.images[first], e.bands), e.image_names[first], evidence_state(e), rows[0], rows[1])


def draw_paired_rows(image: Tensor, image_name: str, state: str, first: PairedRow, second: PairedRow) -> Image.Image:
    """Draw two rows of an image (3,H,W) as `draw_pair` does; state: what became of the evidence, "kept" or "deleted"."""
    both = overlay_two(image, first.saliency, second.saliency)
    columns = [(image, image_name, "", ""), (both, "evidence", "black: both", "")]
    for colour, row in zip(("orange", "blue"), (first, second)):
        picture = image if row.perturbed is None else row.perturbed
        change = f"{colour} {state}" if row.perturbed is not None else f"{colour} {state} inside the network"
        columns.append((picture, row.name, change, f"{row.before} to {row.after}"))
    tiles = [to_tile(column[0]) for column in columns]
    cell, size = panel_layout(tiles[0].width)
    line = round(1.5 * size)
    page = Image.new("RGB", (4 * cell + 5 * size, tiles[0].height + 2 * line + size), PAPER)
    for k, (tile, (_, name, change, values)) in enumerate(zip(tiles, columns)):
        x = size + k * (cell + size)
        draw_text(page, (x, size // 2, cell), name, "", size)
        page.paste(tile, (x, size // 2 + line))
        draw_text(page, (x, size + line + tile.height, cell), change, values, size)
    return page
