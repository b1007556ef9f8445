"""Text in pictures: one line with a left and a right part, fitted to its width; numbers as pictures and tables show them."""

import unicodedata
from bisect import bisect_right
from collections.abc import Callable
from functools import cache

from PIL import Image, ImageDraw, ImageFont

INK = "#1c1c22"
FAINT_INK = "#5c5c66"
RULE = "#e4e4e8"
MARK = "#d9466a"
TARGET_BAR = "#f6cbd6"
PAPER = "#ffffff"
SMALLEST = 0.8  # size of a left text that would not fit otherwise, as a share of the line's


def draw_text(page: Image.Image, place: tuple[int, int, int], left: str, right: str, size: int, ink: str = INK) -> None:
    """Draw two texts on one line at place (x, y, width): the right one in full, the left one in the width that is free.

    A left text that is too long becomes smaller, to SMALLEST, and then loses its end.
    """
    x, y, width = place
    draw = ImageDraw.Draw(page)
    font = _font(size)
    right_width = draw.textlength(right, font=font)
    draw.text((x + width - right_width, y), right, fill=ink, font=font)
    free = width - right_width - (size if right else 0)
    left = drawable(left)
    smaller = max(round(SMALLEST * size), min(size, int(size * free / max(1.0, draw.textlength(left[:1000], font=font)))))
    font = _font(smaller)
    left = shorten(left, free, lambda text: draw.textlength(text, font=font))
    draw.text((x, y + size - smaller), left, fill=ink, font=font)  # on the line of the right one


def drawable(text: str) -> str:
    """Return the text on one line, printable, without accents: Pillow's own font has none. Other scripts show as boxes."""
    decomposed = unicodedata.normalize("NFKD", " ".join(text.split()))
    return "".join(c for c in decomposed if c.isprintable() and not unicodedata.combining(c))


def shorten(text: str, width: float, length: Callable[[str], float] = len) -> str:
    """Return the text where its length is at most `width`, else its beginning and an ellipsis."""
    if length(text[:1000]) <= width and len(text) <= 1000:
        return text
    fitting = bisect_right(range(1, 1001), width, key=lambda end: length(text[:end] + "…"))
    return text[:fitting].rstrip() + "…"


def format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@cache  # Pillow unpacks its font at every call
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
