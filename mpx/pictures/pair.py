"""Two rows of one image in one picture: the evidence of each in its own colour, e.g. for either class of a difference."""

import torch
from PIL import Image
from torch import Tensor

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, overlay_two
from mpx.pictures.encoding import to_tile
from mpx.pictures.panel import panel_layout
from mpx.pictures.text import PAPER, draw_text

COLOURS = {"orange": "#ff8c1a", "blue": "#3d8bff"}  # which the colour-blind tell apart too


def two_colours(explanation: PicturedExplanation, first: int, second: int) -> Tensor:
    """Return the evidence of two rows over their image, (3,H,W): orange and blue, and white where both are."""
    images = explanation.images
    if not torch.equal(images[first], images[second]):
        raise ValueError(f"rows {first} and {second} are of different images: give two targets of one image")
    colours = COLOURS["orange"], COLOURS["blue"]
    saliency = explanation.saliency
    return overlay_two(as_rgb(images[first], explanation.bands), saliency[first], saliency[second], colours)


def draw_pair(explanation: PicturedExplanation, first: int = 0, second: int = 1) -> Image.Image:
    """Draw image | evidence of both rows | image under the first row's mask | under the second row's."""
    images = [explanation.images[first], explanation.perturbed[first], explanation.perturbed[second]]
    image, *perturbed = [as_rgb(x, explanation.bands) for x in images]
    tiles = [to_tile(x) for x in (image, two_colours(explanation, first, second), *perturbed)]
    state = evidence_state(explanation)
    texts = [(explanation.image_names[first], "", "", ""), ("evidence", "", "", "")]
    for colour, row in zip(COLOURS, (first, second)):
        before, after = (explanation.task.format(float(x[row])) for x in (explanation.value_before, explanation.value_after))
        named = [answer.name for answer in explanation.answers_before[row] if answer.is_target]
        texts.append(((named or [explanation.classes[row]])[0], before, f"{colour} {state}", after))
    cell, size = panel_layout(tiles[0].width)
    line = round(1.5 * size)
    page = Image.new("RGB", (4 * cell + 5 * size, tiles[0].height + 2 * line + size), PAPER)
    for k, (tile, (name, before, change, after)) in enumerate(zip(tiles, texts)):
        x = size + k * (cell + size)
        draw_text(page, (x, size // 2, cell), name, before, size)
        page.paste(tile, (x, size // 2 + line))
        draw_text(page, (x, size + line + tile.height, cell), change, after, size)
    return page
