"""A panel: one row as image, saliency over the image, and the perturbed image, with captions and bars."""

import math
from collections.abc import Sequence

import torch
from PIL import Image

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, outlined, overlay
from mpx.pictures.encoding import TILE, to_image, to_tile
from mpx.pictures.text import FAINT_INK, INK, MARK, PAPER, RULE, TARGET_BAR, draw_text, format_percent
from mpx.tasks.base import Answer, format_value


def draw_panel(explanation: PicturedExplanation, row: int) -> Image.Image:
    """Draw a row as image | saliency over image | perturbed image, with class, values, area, and the highest answers."""
    reference = "nothing kept" if explanation.game == "preservation" else "all deleted"
    tiles = _tiles(explanation, row)
    value_reference = float(explanation.value_reference[row])
    below = [
        (explanation.image_names[row], ""),
        ("0", "1"),
        (f"{reference}: {explanation.task.format(value_reference)}", ""),
    ]  # left, right
    height = tiles[0].height
    cell, size = panel_layout(tiles[0].width)
    gap = size
    bar = max(6, size // 2)
    line = round(1.5 * size)
    before, after, tick = _bar_positions(explanation, row)
    bars = draw_bar(cell, bar, before), draw_scale(cell, bar), draw_bar(cell, bar, after, tick)
    answers: list[list[Answer]] = [explanation.answers_before[row], [], explanation.answers_after[row]]
    listed = len(answers[0]) * line + (gap // 2 if answers[0] else 0)
    page = Image.new("RGB", (3 * cell + 4 * gap, height + bar + 2 * line + 2 * gap + listed), PAPER)
    columns = zip(tiles, bars, _captions(explanation, row), below, answers)
    for k, (tile, strip, (name, number), (left, right), ranking) in enumerate(columns):
        x = gap + k * (cell + gap)
        y = gap // 2 + line
        draw_text(page, (x, gap // 2, cell), name, number, size)
        page.paste(tile, (x, y))
        y += height + gap // 2
        page.paste(strip, (x, y))
        draw_text(page, (x, y + bar + gap // 4, cell), left, right, size - 2, FAINT_INK)
        for rank, answer in enumerate(ranking, 1):
            place = x, y + bar + gap // 2 + rank * line, cell
            _draw_answer(page, place, answer, explanation.task.quantity, size - 2)
    return page


def _draw_answer(page: Image.Image, place: tuple[int, int, int], answer: Answer, quantity: str, size: int) -> None:
    """Draw a name and a value from 0 to 1 at (x, y, width) over a bar of this length, in another colour for the target."""
    x, y, width = place
    length = round(min(1.0, max(0.0, answer.value)) * width)
    if length:
        page.paste(TARGET_BAR if answer.is_target else RULE, (x, y, x + length, y + round(1.4 * size)))
    draw_text(page, (x + size // 3, y, width - 2 * (size // 3)), answer.name, format_value(quantity, answer.value), size)


def _bar_positions(explanation: PicturedExplanation, row: int) -> tuple[float, float, float]:
    """Return where the value before, after and on the fully perturbed image is in its range, from 0 to 1.

    Where the task has no range, it goes from the lowest to the highest value of the row.
    """
    fields = (explanation.value_before, explanation.value_after, explanation.value_reference)
    values = torch.stack([x[row] for x in fields]).double()
    low, high = explanation.task.low, explanation.task.high
    if not explanation.task.is_bounded:
        low, high = float(values.min()), float(values.max())
    before, after, reference = ((values - low) / max(high - low, 1e-12)).tolist()
    return before, after, reference


def draw_thumbnail_panel(explanation: PicturedExplanation, row: int) -> Image.Image:
    """Draw a row like `draw_panel`, legible at half its size, as loggers show it: large text, names and numbers alone."""
    tiles = _tiles(explanation, row)
    cell = max(TILE, tiles[0].width)
    size = cell // 8
    gap = size // 2
    line = round(1.2 * size)
    page = Image.new("RGB", (3 * cell + 4 * gap, tiles[0].height + 2 * line + 2 * gap), PAPER)
    for k, (tile, (name, number)) in enumerate(zip(tiles, _captions(explanation, row))):
        x = gap + k * (cell + gap)
        draw_text(page, (x, gap // 2, cell), name, "", size)
        draw_text(page, (x, gap // 2 + line, cell), number, "", size)
        page.paste(tile, (x, gap + 2 * line))
    return page


def _tiles(explanation: PicturedExplanation, row: int) -> list[Image.Image]:
    image, perturbed = (as_rgb(x[row], explanation.bands) for x in (explanation.images, explanation.perturbed))
    first = image if explanation.region is None else outlined(image, explanation.region[row])
    return [to_tile(x) for x in (first, overlay(image, explanation.saliency[row]), perturbed)]


def _captions(explanation: PicturedExplanation, row: int) -> list[tuple[str, str]]:
    """Return the name and the number of each picture."""
    return [
        (explanation.classes[row], explanation.task.format(float(explanation.value_before[row]))),
        ("evidence", f"area {format_percent(float(explanation.area[row]))}"),
        (evidence_state(explanation), explanation.task.format(float(explanation.value_after[row]))),
    ]


def panel_layout(width: int) -> tuple[int, int]:
    """Return the width of a panel's cell and the size of its text, in pixels, for pictures of this width."""
    cell = max(TILE, width)
    return cell, max(14, cell // 15)


def draw_sheet(explanation: PicturedExplanation, rows: Sequence[int]) -> Image.Image:
    """Draw the panels of these rows one below the other."""
    return stack_images([draw_panel(explanation, row) for row in rows])


def stack_images(images: Sequence[Image.Image]) -> Image.Image:
    """Paste images of one size one below the other."""
    width, height = images[0].size
    page = Image.new("RGB", (width, height * len(images)))
    for k, image in enumerate(images):
        page.paste(image, (0, k * height))
    return page


def draw_scale(width: int, height: int) -> Image.Image:
    """Draw the overlay's colours from 0 to 1, as they look on a mid-grey image."""
    ramp = torch.linspace(0, 1, width).expand(1, height, width)
    return to_image(overlay(as_rgb(torch.full((1, 1, 1), 0.5)), ramp))


def draw_bar(width: int, height: int, value: float, tick: float = math.nan) -> Image.Image:
    """Draw a bar filled to `value` in [0,1], with a tick for comparison; NaN is not drawn."""
    bar = Image.new("RGB", (width, height), RULE)
    if value > 0:
        bar.paste(INK, (0, 0, max(1, round(value * width)), height))
    if tick >= 0:
        x = round(tick * (width - 3))
        bar.paste(MARK, (x, 0, x + 3, height))
    return bar
