"""Images whose evidence is known: a textured shape of one of four classes on noise; in half of them another class's too.

A texture is a cell of 8x8 pixels, random signs around grey, repeated: every blur, constant or fill takes it away. It is its
own mirror image. mpx.models.synthetic is the network that sees these textures and nothing else.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mpx.data.annotations import Region
from mpx.data.datasets import Item, _items

NAMES = ("amber", "basalt", "cedar", "delft")
CELL = 8  # pixels
# of 100,000 seeds the first whose textures are least alike, to each other and to themselves moved by some pixels: 0.21
SEED = 605
LOW, HIGH = 13, 242  # of a texture, of 255
NOISE = (102, 153)  # of the ground, of 255
SHAPES = ("1111 1111 0110 0110", "0110 1111 1111 0110", "1111 1001 1001 1111", "1100 1100 1111 1111")  # of 12 cells
SMALL = "111 111"  # the other class's: half as much
SIDE = 4 * CELL  # pixels: of a shape
VERSION = 1  # of these pictures


def textures() -> np.ndarray:
    """(4,3,8,8) of -1 and 1, as many of each in every colour."""
    random = np.random.RandomState(SEED)  # unlike default_rng, the same in every version
    signs = np.repeat([1, -1], CELL * CELL // 4)
    half = np.stack([random.permutation(signs) for _ in range(len(NAMES) * 3)]).reshape(len(NAMES), 3, CELL, CELL // 2)
    return np.concatenate([half, half[..., ::-1]], -1)


def synthetic(root: str | os.PathLike, count: int = 64, size: int = 128, seed: int = 0) -> list[Item]:
    """`count` square images of `size` pixels; each depends on size, seed and its number only, and is drawn once into root.

    The label is the larger shape's class. A region is the pixels of a shape and the box around it; where there are two
    classes, both have one.
    """
    if count < 1 or size < 3 * SIDE:
        raise ValueError(f"count={count}, size={size}: give at least one image of at least {3 * SIDE} pixels")
    folder = Path(str(root)).expanduser() / f"{size}px_seed{seed}_v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    there = set(os.listdir(folder))
    paths, labels, regions = [], [], []
    for number in range(count):
        shapes = place(number, size, seed)
        path = folder / f"{number:05d}.png"
        if path.name not in there:
            part = path.with_suffix(f".{os.getpid()}.part")
            Image.fromarray(paint(shapes, number, size, seed)).save(part, "PNG")
            os.replace(part, path)
        paths.append(path)
        labels.append(NAMES[shapes[0][0]])
        both = len(shapes) > 1
        regions.append(
            {NAMES[c]: Region((_around(cells),), partial(draw, cells, size), difficult=both) for c, cells in shapes}
        )
    return _items(paths, labels, None, regions)


def place(number: int, size: int, seed: int) -> list[tuple[int, tuple]]:
    """(class, corners (x,y) of its cells) of the shape and, where there is one, of the other class's."""
    random = np.random.RandomState([seed, number, 0])
    classes = [number % len(NAMES), (number + random.randint(1, len(NAMES))) % len(NAMES)]
    shapes = [SHAPES[random.randint(len(SHAPES))], SMALL][: random.randint(1, 3)]
    while True:
        corners = [random.randint(CELL, size - SIDE - CELL + 1, 2) for _ in shapes]
        if np.abs(np.subtract(corners[0], corners[-1])).max() >= SIDE + CELL or len(shapes) == 1:
            break
    return [(c, _cells(shape, *map(int, corner))) for c, shape, corner in zip(classes, shapes, corners)]


def paint(shapes: list[tuple], number: int, size: int, seed: int) -> np.ndarray:
    """(size,size,3) of 0 to 255."""
    random = np.random.RandomState([seed, number, 1])
    picture = random.randint(NOISE[0], NOISE[1] + 1, (size, size, 3)).astype(np.uint8)
    for c, cells in shapes:
        texture = np.where(textures()[c].transpose(1, 2, 0) > 0, HIGH, LOW)
        for x, y in cells:
            picture[y : y + CELL, x : x + CELL] = texture
    return picture


def draw(cells: tuple, size: int) -> Image.Image:
    """The pixels of a shape, mode "1"."""
    image = Image.new("1", (size, size))
    for x, y in cells:
        image.paste(1, (x, y, x + CELL, y + CELL))
    return image


def _cells(shape: str, x: int, y: int) -> tuple[tuple[int, int], ...]:
    rows = enumerate(shape.split())
    return tuple((x + CELL * j, y + CELL * i) for i, row in rows for j, filled in enumerate(row) if filled == "1")


def _around(cells: tuple) -> tuple[int, int, int, int]:
    xs, ys = zip(*cells)
    return (min(xs), min(ys), max(xs) + CELL, max(ys) + CELL)
