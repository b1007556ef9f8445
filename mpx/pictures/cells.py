"""Pictures in rows and columns, each with two lines of text below it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mpx.pictures.colours import as_rgb, overlay
from mpx.pictures.encoding import to_image
from mpx.pictures.text import FAINT_INK, INK, PAPER, draw_text

CELL = 160  # pixels, as the next three
GAP = 8
LINE = 18
TEXT_SIZE = 13


class Cell(NamedTuple):
    """A picture whose longer side is CELL, and what is written below it."""

    picture: Image.Image | None
    text: str = ""
    note: str = ""


def draw_cells(
    rows: Sequence[Sequence[Cell]],
    headings: Sequence[Sequence[str]] = (),
    footer: str = "",
    footings: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Draw rows of as many cells each.

    headings, footings: lines above and below the rows, of one text for each column, faint in the first column.
    """
    columns = max(map(len, (*rows, *headings)))
    heights = [max((cell.picture.height for cell in row if cell.picture), default=0) for row in rows]
    top = GAP + LINE * len(headings)
    below = LINE * (len(footings) + bool(footer)) + (GAP if footings else 0)
    size = GAP + columns * (CELL + GAP), top + sum(heights) + len(rows) * (2 * LINE + GAP) + below
    page = Image.new("RGB", size, PAPER)

    def write(column: int, y: int, text: str, ink: str) -> None:
        draw_text(page, (GAP + column * (CELL + GAP), y, CELL), text, "", TEXT_SIZE, ink)

    for start, lines in ((GAP, headings), (page.height - below, footings)):
        for line, texts in enumerate(lines):
            for column, text in enumerate(texts):
                write(column, start + line * LINE, text, INK if column else FAINT_INK)
    y = top
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            if cell.picture:
                page.paste(cell.picture, (GAP + column * (CELL + GAP), y))
            write(column, y + height + 2, cell.text, INK)
            write(column, y + height + 2 + LINE, cell.note, FAINT_INK)
        y += height + 2 * LINE + GAP
    draw_text(page, (GAP, page.height - LINE, page.width - 2 * GAP), footer, "", TEXT_SIZE, FAINT_INK)
    return page


def fit(image: Image.Image) -> Image.Image:
    """Resize so that the longer side is CELL."""
    scale = CELL / max(image.size)
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling)


def saliency_over(photo: Tensor | None, saliency: Tensor) -> Image.Image:
    """Draw saliency (1,H,W) in [0,1] over a photo (C,h,w) in [0,1], or alone."""
    if photo is None:
        return fit(to_image(overlay(torch.full((3, *saliency.shape[1:]), 0.5), saliency)))
    sized = F.interpolate(saliency[None], photo.shape[1:], mode="bilinear", antialias=True)[0]
    return fit(to_image(overlay(as_rgb(photo), sized.clamp(0, 1))))
