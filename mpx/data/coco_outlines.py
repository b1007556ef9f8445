"""Outlines of COCO: polygons and run lengths, compressed or not, as pixels.

pycocotools draws polygons. It trusts its input, and writes beyond its memory for coordinates far outside of the image and
for runs of another length than the image: the former are clipped, the latter refused, here.
"""

import math
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

Json = dict[str, Any]  # an annotation of the file
MARGIN = 1  # sides of the image beyond it at which a polygon is clipped


def outline_fault(entry: Json) -> str:
    """Return what is wrong with the size, box or outline of an annotation; an empty string where nothing is."""
    box, segment = entry["bbox"], entry.get("segmentation")
    if not (isinstance(box, list) and len(box) == 4 and _are_finite(box)):
        return f"has the bbox {box!r}, which must be four numbers x,y,width,height"
    if not _are_finite([entry.get("area", 0)]):
        return f"has the area {entry['area']!r}, which must be a number"
    if isinstance(segment, list):
        for polygon in segment:
            if not (isinstance(polygon, list) and len(polygon) % 2 == 0 and _are_finite(polygon)):
                return f"has the polygon {str(polygon)[:100]}, which must be an even number of finite numbers"
    elif segment is not None and not (isinstance(segment, dict) and isinstance(segment.get("counts"), (list, str))):
        return f"has the segmentation {str(segment)[:100]}, which must be polygons or run lengths"
    return ""


def draw(segments: tuple, size: tuple[int, int]) -> Image.Image:
    """Return the union, mode "1", of polygons and run lengths, compressed or not, in an image of `size` (width, height)."""
    from pycocotools import mask

    width, height = size
    drawn = np.zeros((height, width), bool)
    for segment in segments:
        if isinstance(segment, dict):
            drawn |= _from_runs(segment["counts"], height, width)
        else:
            polygons = [clipped for polygon in segment if len(clipped := _clip(polygon, size)) >= 6]
            for runs in mask.frPyObjects(polygons, height, width) if polygons else ():
                drawn |= _from_runs(runs["counts"].decode(), height, width)
    return Image.fromarray(drawn)


def _are_finite(values: list) -> bool:
    return all(isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in values)


def _from_runs(counts: list | str, height: int, width: int) -> np.ndarray:
    """Return (height, width) bool of run lengths, column by column, the first of zeros."""
    runs = counts if isinstance(counts, list) else _decompress(counts)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"run lengths {str(counts)[:60]!r} do not fit an image of {width}x{height} pixels: correct them")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """Return the run lengths in COCO's text: five bits a character, low ones first.

    From the fourth on, a number is by how much the run is longer than the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("latin-1", "replace"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _clip(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """Return a polygon (x,y,x,y,...) without what lies further than MARGIN from the image (Sutherland and Hodgman 1974)."""
    points = np.asarray(polygon, float).reshape(-1, 2)
    for axis, side in enumerate(size):
        for sign, limit in ((1, (1 + MARGIN) * side), (-1, MARGIN * side)):
            beyond = sign * points[:, axis] - limit  # above 0: outside
            if not (beyond > 0).any():
                continue
            kept: list[np.ndarray] = []
            for k in range(len(points)):
                a, b = beyond[k - 1], beyond[k]
                if (a > 0) != (b > 0):
                    kept.append(points[k - 1] + (points[k] - points[k - 1]) * (a / (a - b)))
                if not b > 0:
                    kept.append(points[k])
            points = np.array(kept).reshape(-1, 2)
    return points.flatten().tolist()
