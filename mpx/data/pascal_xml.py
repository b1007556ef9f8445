"""Annotation files in PASCAL VOC's XML, which ImageNet's devkit uses too."""

import os
from typing import NamedTuple
from xml.etree.ElementTree import ParseError, parse

from torchvision.datasets import VOCDetection

from mpx.data.annotations import as_box
from mpx.data.preprocessing import Box
from mpx.data.reading import regular_file


class PascalObject(NamedTuple):
    """One object: its category, its box as written, and whether the annotators call it difficult."""

    name: str
    box: Box
    difficult: bool


class PascalAnnotation(NamedTuple):
    """The size of an image in pixels and its objects; width and height are 0 where the file does not state them."""

    width: int
    height: int
    objects: list[PascalObject]


def read_pascal_xml(file: str | os.PathLike) -> PascalAnnotation:
    """Read one file, or raise ValueError with one sentence."""
    where = f"annotation {str(file)!r}"
    try:
        root = parse(regular_file(file)).getroot()
        assert root is not None
        tree = VOCDetection.parse_voc_xml(root)["annotation"]
        size = tree.get("size") or {}
        objects = [
            PascalObject(
                entry["name"],
                as_box([entry["bndbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")], where),
                entry.get("difficult", "0") == "1",
            )
            for entry in tree.get("object", [])
        ]
        return PascalAnnotation(int(size.get("width", 0)), int(size.get("height", 0)), objects)
    except OSError as error:
        raise ValueError(f"there is no {where}: fetch it, or take the image out of the list") from error
    except (ParseError, KeyError, TypeError, AttributeError, ValueError) as error:
        if str(error).startswith(where):  # of as_box
            raise
        raise ValueError(f"{where} is no PASCAL XML ({type(error).__name__}: {error}): fetch it again") from error
