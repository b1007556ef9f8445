"""What is found: the Explanation of rows, an image and a class each."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mpx.metrics.areas import group_rows, smallest_area_rows, sum_of_areas
from mpx.metrics.normalised_probability import normalise_probability
from mpx.pictures.panel import draw_panel, draw_sheet
from mpx.runs import store, tables, terminal


@dataclass
class Explanation:
    """What B rows (an image and a target each) were found to rest on. All tensors on the CPU."""

    names: list[str]  # of the rows, unique and fit for a file, e.g. "coffee-967-espresso"
    images: list[str]  # of their images
    classes: list[str]  # of their targets, readable
    targets: Tensor  # (B,)
    areas: Tensor  # (B,) asked; NaN where the method asks for none
    photos: Tensor  # (B,3,H,W) in [0,1]
    perturbed: Tensor  # (B,3,H,W) the photo without its evidence (deletion, dual) or with nothing else (preservation)
    complement: Tensor | None  # (B,3,H,W) and under 1-mask; None where the mask acts inside the network, on no picture
    parameter: Tensor  # (B,...) what was learnt; (B,1,h,w) the mask's cells, but for special masks
    mask: Tensor  # (B,1,H,W) 1 keeps a pixel, 0 perturbs it; of a mask in other domains, its image
    saliency: Tensor  # (B,1,H,W) in [0,1], high where the evidence is: 1-mask, in a preservation the mask
    p_before: Tensor  # (B,) softmax probability of the target on the photo,
    p_after: Tensor  # (B,) on `perturbed`, without augment,
    p_reference: Tensor  # (B,) and on the fully perturbed photo
    curves: dict[str, Tensor]  # term -> (steps,B): total and its weighted parts, probability, area
    steps: Tensor  # (B,) iterations of each row; fewer than asked where it stopped, and then it stays as it was
    iterations: list[int]  # of the F snapshots: 0 is the start, the last one the result
    frames: Tensor  # (F,B,3,H,W) uint8, the perturbed photo at each
    frame_saliency: Tensor  # (F,B,1,H,W) uint8
    frame_masks: Tensor  # (F,B,...) the parameter
    frame_p: Tensor  # (F,B) softmax probability of the target on each
    game: str
    seconds: Tensor  # (B,) of each row: the time of those that were optimized together, shared out
    passes: Tensor  # (B,) forward and backward of the row through the network,
    forwards: Tensor  # (B,) and forward alone, that its search took
    batch_size: int  # rows that were optimized together

    @property
    def area(self) -> Tensor:
        """(B,) mean saliency: the share of the photo that is evidence."""
        return self.saliency.mean((1, 2, 3))

    @property
    def p_normalised(self) -> Tensor:
        """(B,) (p_after - p_reference) / (p_before - p_reference), Fong & Vedaldi 2017, footnote 4; NaN where perturbing all
        costs next to nothing (`normalise_probability`)."""
        return normalise_probability(self.p_after, self.p_before, self.p_reference)

    def only(self, rows: list[int]) -> "Explanation":
        """The explanation of these rows."""
        picked = replace(self, **{name: _pick(name, getattr(self, name), rows) for name in self.__dataclass_fields__})
        end = int(picked.steps.max()) if rows else 0
        return _at(picked, [i for i in self.iterations if i < end] + [end])

    def panel(self, row: int = 0) -> Image.Image:
        """Photo | saliency over it | perturbed photo, with class, probabilities and area."""
        return draw_panel(self, row)

    def smallest(self, enough: float = 0.9) -> list[int]:
        """Of each image and class the row of the smallest area that is enough, else of the largest (`smallest_area_rows`)."""
        rows = [row | {"row": i} for i, row in enumerate(tables.table_rows(self))]
        return [row["row"] for row in smallest_area_rows(rows, enough, self.game)]

    def summed(self, smooth: float = 0.09) -> Tensor:
        """(N,1,H,W) for N images and classes: the masks of their areas, summed and smoothed (`sum_of_areas`)."""
        places = group_rows(list(zip(self.images, self.targets.tolist()))).values()
        return torch.stack([sum_of_areas(self.saliency[rows], smooth) for rows in places])

    def save(self, folder) -> None:
        """Writes masks/, panels/, evolution/ and results.csv into the folder, each file whole or not at all."""
        folder = Path(folder)
        for row in range(len(self.names)):
            store.save_row(folder, self, row)
        tables.write_csv(folder / "results.csv", tables.table_rows(self))

    def _repr_png_(self) -> bytes:  # a notebook shows the panels by itself
        buffer = io.BytesIO()
        draw_sheet(self, range(len(self.names))).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"Explanation of {len(self.names)} rows\n{terminal.format_rows(tables.table_rows(self))}"

    def __len__(self) -> int:
        return len(self.names)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def class_name(target: int, categories: Sequence[str] | None) -> str:
    return categories[target] if categories else f"class {target}"


def _pick(name: str, value, rows: list[int]):
    if value is None or name in ("iterations", "game", "batch_size"):
        return value
    if name == "curves":
        return {term: values[:, rows] for term, values in value.items()}
    if isinstance(value, Tensor):
        return value[:, rows] if name.startswith("frame") else value[rows]
    return [value[row] for row in rows]


def _at(e: Explanation, iterations: list[int]) -> Explanation:
    """With the frames and curves of these iterations; rows that were over before stay as they were."""
    if iterations == e.iterations:
        return e
    some = [next((k for k, own in enumerate(e.iterations) if own >= i), -1) for i in iterations]
    until = torch.arange(iterations[-1]).clamp(max=e.iterations[-1] - 1)
    frames = {name: getattr(e, name)[some] for name in Explanation.__dataclass_fields__ if name.startswith("frame")}
    return replace(e, iterations=iterations, curves={k: v[until] for k, v in e.curves.items()}, **frames)


def join(parts: list[Explanation]) -> Explanation:
    """One explanation of the rows of several batches."""
    if len(parts) == 1:
        return parts[0]
    longest, joined = max((part.iterations for part in parts), key=lambda iterations: iterations[-1]), {}
    parts = [_at(part, longest) for part in parts]
    for name in Explanation.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        first = values[0]
        if first is None or name in ("iterations", "game", "batch_size"):
            joined[name] = first
        elif name == "curves":
            joined[name] = {term: torch.cat([v[term] for v in values], 1) for term in first}
        elif isinstance(first, Tensor):
            joined[name] = torch.cat(values, 1 if name.startswith("frame") else 0)
        else:
            joined[name] = sum(values[1:], first)
    return Explanation(**joined)
