"""An animation of one row: the mask as it forms, as a WebP that loops and holds the last frame."""

import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, overlay
from mpx.pictures.encoding import TILE, to_tile, to_uint8
from mpx.pictures.panel import draw_bar
from mpx.pictures.text import FAINT_INK, PAPER, draw_text, format_percent

QUALITY = 70  # of 100
TEXT_SIZE = 17  # pixels, as the next two
GAP = 12
LINE = 26
FIRST_MS = 600
FRAME_MS = 140
LAST_MS = 1600


def animation_webp(explanation: PicturedExplanation, row: int, max_side: int = 320) -> bytes:
    """Return a WebP of row `row`: saliency over image | perturbed image, at every recorded iteration.

    The value is that of the frame itself, without augmentations. Pictures are reduced to `max_side` pixels, which
    keeps 24 frames near 0.4 MB.
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
    return encode_webp(pages, [FIRST_MS] + [FRAME_MS] * (len(pages) - 2) + [LAST_MS])


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
        page.paste(tile, (x, GAP // 2 + LINE))
    width = page.width - 2 * GAP
    y = LINE + height + GAP
    page.paste(draw_bar(width, 4, iteration / max(1, last)), (GAP, y))
    draw_text(page, (GAP, y + GAP // 2, width), f"iteration {iteration} of {last}", "", TEXT_SIZE - 2, FAINT_INK)
    return page


def encode_webp(pages: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Encode pages of one size; a WebP has half the bytes of a GIF, and all colours."""
    file = io.BytesIO()
    first, *rest = pages
    options = {"duration": list(milliseconds[: len(pages)]), "loop": 0, "quality": QUALITY, "method": 0}  # the fastest
    first.save(file, "WEBP", save_all=True, append_images=rest, **options)
    return file.getvalue()
