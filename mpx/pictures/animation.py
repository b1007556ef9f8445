"""An animation of one row: the mask as it forms, as a GIF that loops and holds the last frame."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, overlay
from mpx.pictures.encoding import TILE, to_tile, to_uint8
from mpx.pictures.panel import draw_bar, stack_images
from mpx.pictures.text import FAINT_INK, PAPER, draw_text, format_percent

BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
TEXT_SIZE = 17  # pixels, as the next two
GAP = 12
LINE = 26
FIRST_MS = 600
FRAME_MS = 140
LAST_MS = 1600


def animation_gif(explanation: PicturedExplanation, row: int, max_side: int = 320) -> bytes:
    """Return a GIF of row `row`: saliency over image | perturbed image, at every recorded iteration.

    The value is that of the frame itself, without augmentations. Pictures are reduced to `max_side` pixels, which
    keeps 24 frames near a megabyte.
    """
    saliency = explanation.frame_evidence[:, row] / 255
    overlays = to_uint8(overlay(as_rgb(explanation.images[row], explanation.bands), saliency))
    frames = as_rgb(explanation.frames[:, row], explanation.bands)
    areas = [*saliency[:-1].mean((1, 2, 3)).tolist(), float(explanation.area[row])]  # frames are rounded to bytes
    pages = []
    for frame in range(len(explanation.iterations)):
        p = float(explanation.frame_values[frame, row])
        texts = [(explanation.classes[row], f"mask {format_percent(areas[frame])}"),
                 (evidence_state(explanation), explanation.task.format(p))]  # fmt: skip
        pictures = overlays[frame], frames[frame]
        pages.append(_draw_page(pictures, texts, explanation.iterations[frame], explanation.iterations[-1], max_side))
    return encode_gif(pages, [FIRST_MS] + [FRAME_MS] * (len(pages) - 2) + [LAST_MS])


def _draw_page(
    pictures: tuple[Tensor, Tensor], texts: list[tuple[str, str]], iteration: int, last: int, max_side: int
) -> Image.Image:
    """Draw two pictures (3,H,W) with a line of text above each and the progress of the iterations below."""
    tiles = [to_tile(x, max_side) for x in pictures]
    height = tiles[0].height
    cell = max(TILE, tiles[0].width)
    page = Image.new("RGB", (2 * cell + 3 * GAP, height + 3 * GAP + 2 * LINE), PAPER)
    for k, (tile, (left, right)) in enumerate(zip(tiles, texts)):
        x = GAP + k * (cell + GAP)
        draw_text(page, (x, GAP // 2, cell), left, right, TEXT_SIZE)
        page.paste(dither(tile), (x, GAP // 2 + LINE))
    width = page.width - 2 * GAP
    y = LINE + height + GAP
    page.paste(draw_bar(width, 4, iteration / max(1, last)), (GAP, y))
    draw_text(page, (GAP, y + GAP // 2, width), f"iteration {iteration} of {last}", "", TEXT_SIZE - 2, FAINT_INK)
    return page


def encode_gif(pages: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Encode pages of one size with one palette for all, each pixel in the nearest colour."""
    sample = stack_images([pages[k * (len(pages) - 1) // 3] for k in range(4)])
    # every third pixel, which visits all places of the dither's pattern
    sample = sample.resize((sample.width // 3, sample.height // 3), Image.Resampling.NEAREST)
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    table = np.array(palette.getpalette()).reshape(-1, 3)
    table[table.min(1) >= min(248, table.min(1).max())] = 255  # the paper stays white
    palette.putpalette(table.flatten().tolist())
    first, *rest = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=list(milliseconds[: len(pages)]), loop=0)
    return file.getvalue()


def dither(image: Image.Image) -> Image.Image:
    """Add a Bayer pattern of +-5/255, so that few colours make no bands; it does not move, so nothing flickers."""
    pattern = np.tile(BAYER, (-(-image.height // 4), -(-image.width // 4)))[: image.height, : image.width, None]
    return Image.fromarray((np.asarray(image) + (pattern - 7.5) * 0.7).clip(0, 255).astype(np.uint8))
