"""Images whose evidence is known: a textured shape of one of four classes on noise; in half of them a second, smaller one.

A texture is a cell of 8x8 pixels, random signs around grey, repeated: every blur, constant or inpainting removes it. It is
its own mirror image. mpx.models.synthetic has the networks that respond to these textures and to nothing else. Images of
1 or 3 channels are PNGs, those of 6 channels arrays (.npy).
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mpx.data.annotations import Label, Region
from mpx.data.images import GREY, RGB
from mpx.data.items import Item, name_items

NAMES = ("amber", "basalt", "cedar", "delft")
CELLS = "cells"  # label of the region of all cells, whatever their class
CELL = 8  # pixels
# by channels, the first of 100,000 seeds by how little its textures resemble each other, and themselves moved by some pixels
SEEDS = {1: 139814, 3: 605, 6: 1625}
LOW, HIGH = 13, 242  # of a texture, of 255
NOISE = (102, 153)  # of the ground, of 255
SHAPES = ("1111 1111 0110 0110", "0110 1111 1111 0110", "1111 1001 1001 1111", "1100 1100 1111 1111")  # of 12 cells
SMALL = "111 111"  # shape of the second class: half as many cells
SIDE = 4 * CELL  # pixels: of a shape
VERSION = 1  # of these images
Cells = tuple[tuple[int, int], ...]  # corners (x,y) of a shape's cells
Shape = tuple[int, Cells]  # class and cells


def textures(channels: int = RGB) -> np.ndarray:
    """Return (4,C,8,8) of -1 and 1, as many of each in every channel."""
    if channels not in SEEDS:
        raise ValueError(f"channels={channels} must be {', '.join(map(str, SEEDS))}: there are textures of as many")
    random = np.random.RandomState(SEEDS[channels])  # unlike default_rng, the same in every version
    signs = np.repeat([1, -1], CELL * CELL // 4)
    drawn = [random.permutation(signs) for _ in range(len(NAMES) * channels)]
    half = np.stack(drawn).reshape(len(NAMES), channels, CELL, CELL // 2)
    return np.concatenate([half, half[..., ::-1]], -1)


def synthetic(
    root: str | os.PathLike, count: int = 64, size: int = 128, seed: int = 0, channels: int = RGB
) -> list[Item]:
    """List `count` square images of `size` pixels, drawn once into root; each depends on the options and its number only.

    The label is the larger shape's class. A region is the pixels of a shape and the box around it; where there are two
    classes, both have one. The region "cells" is both shapes.
    """
    if count < 1 or size < 3 * SIDE:
        raise ValueError(f"count={count}, size={size}: give at least one image of at least {3 * SIDE} pixels")
    textures(channels)  # checks channels
    folder = Path(str(root)).expanduser() / f"{size}px_{channels}channels_seed{seed}_v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    existing = set(os.listdir(folder))
    items = []
    for number in range(count):
        shapes = choose_shapes(number, size, seed)
        path = folder / f"{number:05d}.{'png' if channels in (GREY, RGB) else 'npy'}"
        if path.name not in existing:
            part = path.with_suffix(f".{os.getpid()}.part")
            save(paint(shapes, number, size, seed, channels), part)
            os.replace(part, path)
        both = len(shapes) > 1
        regions: dict[Label, Region] = {
            NAMES[c]: Region((_bounding_box(cells),), partial(draw, cells, size), difficult=both) for c, cells in shapes
        }
        every_cell = tuple(cell for _, cells in shapes for cell in cells)
        regions[CELLS] = Region(tuple(_bounding_box(cells) for _, cells in shapes), partial(draw, every_cell, size))
        items.append(Item(path, NAMES[shapes[0][0]], regions=regions))
    return name_items(items)


def choose_shapes(number: int, size: int, seed: int) -> list[Shape]:
    """Return class and cells of the shape and, in half of the images, of the second one."""
    random = np.random.RandomState([seed, number, 0])
    classes = [number % len(NAMES), (number + random.randint(1, len(NAMES))) % len(NAMES)]
    shapes = [SHAPES[random.randint(len(SHAPES))], SMALL][: random.randint(1, 3)]
    while True:
        corners = [random.randint(CELL, size - SIDE - CELL + 1, 2) for _ in shapes]
        if np.abs(np.subtract(corners[0], corners[-1])).max() >= SIDE + CELL or len(shapes) == 1:
            break
    return [(c, cells_of(shape, *map(int, corner))) for c, shape, corner in zip(classes, shapes, corners)]


def paint(shapes: list[Shape], number: int, size: int, seed: int, channels: int = RGB) -> np.ndarray:
    """Return the image (size,size,C) of 0 to 255."""
    random = np.random.RandomState([seed, number, 1])
    picture = random.randint(NOISE[0], NOISE[1] + 1, (size, size, channels)).astype(np.uint8)
    for c, cells in shapes:
        texture = np.where(textures(channels)[c].transpose(1, 2, 0) > 0, HIGH, LOW)
        for x, y in cells:
            picture[y : y + CELL, x : x + CELL] = texture
    return picture


def save(pixels: np.ndarray, path: Path) -> None:
    """Write pixels (H,W,C) as a PNG where they are grey or RGB, else as an array."""
    with path.open("wb") as file:
        if pixels.shape[2] in (GREY, RGB):
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == GREY else pixels).save(file, "PNG")
        else:
            np.save(file, pixels)


def draw(cells: Cells, size: int) -> Image.Image:
    """Return the pixels of a shape, mode "1"."""
    image = Image.new("1", (size, size))
    for x, y in cells:
        image.paste(1, (x, y, x + CELL, y + CELL))
    return image


def cells_of(shape: str, x: int, y: int) -> Cells:
    """Return the cells of a shape whose first cell has its corner at (x,y)."""
    rows = enumerate(shape.split())
    return tuple((x + CELL * j, y + CELL * i) for i, row in rows for j, filled in enumerate(row) if filled == "1")


def _bounding_box(cells: Cells) -> tuple[int, int, int, int]:
    xs, ys = zip(*cells)
    return (min(xs), min(ys), max(xs) + CELL, max(ys) + CELL)
