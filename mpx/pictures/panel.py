"""A panel: one row as image, saliency over the image, and the perturbed image, with captions and bars."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image

from mpx.pictures.base import PicturedExplanation, evidence_state
from mpx.pictures.colours import as_rgb, outlined, overlay
from mpx.pictures.encoding import TILE, to_image, to_tile
from mpx.pictures.text import FAINT_INK, INK, MARK, PAPER, RULE, TARGET_BAR, draw_text, format_percent
from mpx.tasks.base import Answer, format_value

SALIENCY = "saliency"  # name of the column with the scale


class Column(NamedTuple):
    """One picture of a panel and what is written with it."""

    picture: Image.Image
    name: str
    number: str
    values: tuple[float, float]  # of the bar below, and of the tick for comparison; NaN: none
    note: str  # below the bar
    answers: list[Answer]


def draw_panel(explanation: PicturedExplanation, row: int) -> Image.Image:
    """Draw a row as image | saliency over image | perturbed image, with class, values, area, and the highest answers.

    In a dual, the image with nothing but its evidence follows.
    """
    columns = _columns(explanation, row)
    height = columns[0].picture.height
    cell, size = panel_layout(columns[0].picture.width)
    gap = size
    bar = max(6, size // 2)
    line = round(1.5 * size)
    verdict = explanation.verdict[row] if explanation.verdict else ""
    most_answers = max(bool(verdict), *(len(column.answers) for column in columns))
    listed = most_answers * line + (gap // 2 if most_answers else 0)
    page = Image.new("RGB", (len(columns) * (cell + gap) + gap, height + bar + 2 * line + 2 * gap + listed), PAPER)
    for k, column in enumerate(columns):
        x = gap + k * (cell + gap)
        y = gap // 2 + line
        draw_text(page, (x, gap // 2, cell), column.name, column.number, size)
        page.paste(column.picture, (x, y))
        y += height + gap // 2
        is_scale = column.name == SALIENCY
        page.paste(draw_scale(cell, bar) if is_scale else draw_bar(cell, bar, *column.values), (x, y))
        left, right = ("0", "1") if is_scale else (column.note, "")
        draw_text(page, (x, y + bar + gap // 4, cell), left, right, size - 2, FAINT_INK)
        if is_scale:
            draw_text(page, (x, y + bar + gap // 2 + line, cell), verdict, "", size - 2, INK if verdict == "works" else MARK)
        for rank, answer in enumerate(column.answers, 1):
            place = x, y + bar + gap // 2 + rank * line, cell
            _draw_answer(page, place, answer, explanation.task.quantity, size - 2)
    return page


def _columns(explanation: PicturedExplanation, row: int) -> list[Column]:
    """Return the columns of a panel, from the left."""
    e, text = explanation, explanation.task.format
    before, after, complement, reference = _bar_positions(e, row)
    images = [e.images, e.perturbed]
    if e.complement is not None and e.game in ("dual", "product"):  # the mask was learnt for this image too
        images.append(e.complement)
    image, *perturbed = [as_rgb(x[row], e.bands) for x in images]
    first = image if e.region is None else outlined(image, e.region[row])
    measured = "mask" if e.is_learnt else "area"
    note = "nothing kept" if e.game == "preservation" else "all deleted"
    states = [
        (evidence_state(e), e.value_after, after, f"{note}: {text(float(e.value_reference[row]))}", e.answers_after[row]),
        ("kept alone", e.value_complement, complement, "", e.answers_complement[row]),
    ]
    columns = [
        Column(to_tile(first), e.classes[row], text(float(e.value_before[row])), (before, math.nan), e.image_names[row],
               e.answers_before[row]),
        Column(to_tile(overlay(image, e.saliency[row])), SALIENCY, f"{measured} {format_percent(float(e.area[row]))}",
               (math.nan, math.nan), "", []),
    ]  # fmt: skip
    for picture, (name, values, position, below, answers) in zip(perturbed, states):
        columns.append(Column(to_tile(picture), name, text(float(values[row])), (position, reference), below, answers))
    return columns


def _draw_answer(page: Image.Image, place: tuple[int, int, int], answer: Answer, quantity: str, size: int) -> None:
    """Draw a name and a value from 0 to 1 at (x, y, width) over a bar of this length, in another colour for the target."""
    x, y, width = place
    length = round(min(1.0, max(0.0, answer.value)) * width)
    if length:
        page.paste(TARGET_BAR if answer.is_target else RULE, (x, y, x + length, y + round(1.4 * size)))
    draw_text(page, (x + size // 3, y, width - 2 * (size // 3)), answer.name, format_value(quantity, answer.value), size)


def _bar_positions(explanation: PicturedExplanation, row: int) -> tuple[float, ...]:
    """Return where the value before, after, on the complement and on the fully perturbed image is in its range, 0 to 1.

    Where the task has no range, it goes from the lowest to the highest value of the row.
    """
    e = explanation
    fields = (e.value_before, e.value_after, e.value_complement, e.value_reference)
    values = torch.stack([x[row] for x in fields]).double()
    low, high = e.task.low, e.task.high
    if not e.task.is_bounded:
        known = values[values.isfinite()]
        low, high = float(known.min()), float(known.max())
    return tuple(((values - low) / max(high - low, 1e-12)).tolist())


def draw_thumbnail_panel(explanation: PicturedExplanation, row: int) -> Image.Image:
    """Draw a row like `draw_panel`, legible at half its size, as loggers show it: large text, names and numbers alone."""
    columns = _columns(explanation, row)
    height = columns[0].picture.height
    cell = max(TILE, columns[0].picture.width)
    size = cell // 8
    gap = size // 2
    line = round(1.2 * size)
    page = Image.new("RGB", (len(columns) * (cell + gap) + gap, height + 2 * line + 2 * gap), PAPER)
    for k, column in enumerate(columns):
        x = gap + k * (cell + gap)
        draw_text(page, (x, gap // 2, cell), column.name, "", size)
        draw_text(page, (x, gap // 2 + line, cell), column.number, "", size)
        page.paste(column.picture, (x, gap + 2 * line))
    return page


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
