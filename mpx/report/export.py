"""The masks of a run in pixels of the original photos, for other programs: COCO's JSON, which FiftyOne loads, and PNGs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mpx.data.images import image_size, read_image
from mpx.data.preprocessing import Preprocess
from mpx.masks.evidence import evidence_of
from mpx.pictures.encoding import encode_png
from mpx.runs.files import write_file
from mpx.runs.store import load_row

FORMATS = ("coco", "png")
VALUES = ("value_before", "value_after", "value_normalised")  # of a row, which an annotation holds, too


class OriginalEvidence(NamedTuple):
    """The evidence of a row in its original photo."""

    row: dict[str, Any]  # of store.load_row
    photo: Path
    evidence: Tensor  # (h,w) in [0,1], 0 where the network sees nothing of the photo


def write_export(
    lines: Sequence[dict[str, str]], folder: Path, out: Path, preprocess: Preprocess, channels: int, formats: Sequence[str],
    threshold: float,
) -> list[Path]:  # fmt: skip
    """Write the evidence of the rows of a run to `out`; return the files.

    lines: of results.csv. threshold: smallest evidence of a pixel of COCO's masks. coco: labels.json. png: png/<row>.png, 0
    to 255. Raises ValueError for a row or photo that is damaged.
    """
    coco: dict[str, Any] = {"info": {"description": f"evidence of {folder.name}, at least {threshold:g}"}, "images": [],
                            "categories": [], "annotations": []}  # fmt: skip
    images: dict[str, int] = {}
    classes: dict[str, int] = {}
    written = []
    for row, photo, evidence in _rows(lines, folder, preprocess, channels):
        if "png" in formats:
            written.append(out / "png" / f"{row['name']}.png")
            write_file(written[-1], encode_png(Image.fromarray((evidence * 255).round().byte().numpy())))
        if "coco" not in formats:
            continue
        height, width = evidence.shape
        if str(photo) not in images:
            images[str(photo)] = len(images) + 1
            coco["images"].append({"id": images[str(photo)], "file_name": str(photo), "width": width, "height": height})
        if row["class"] not in classes:
            classes[row["class"]] = len(classes) + 1
            coco["categories"].append({"id": classes[row["class"]], "name": row["class"]})
        values = {key: row[key] if np.isfinite(row[key]) else None for key in VALUES}
        keys = {"id": len(coco["annotations"]) + 1, "image_id": images[str(photo)], "category_id": classes[row["class"]]}
        coco["annotations"].append(keys | region_of(evidence >= threshold) | {"iscrowd": 0, "row": row["name"], **values})
    if "coco" in formats:
        written = [out / "labels.json", *written]
        write_file(written[0], json.dumps(coco))
    return written


def _rows(
    lines: Sequence[dict[str, str]], folder: Path, preprocess: Preprocess, channels: int
) -> Iterator[OriginalEvidence]:
    for line in lines:
        row = load_row(folder / line["mask"])
        if row is None:
            raise ValueError(f"{folder / line['mask']} is missing or damaged: run the command again")
        photo = Path(line["path"]).resolve()
        evidence = evidence_of(torch.from_numpy(row["mask"]).float(), row["game"])
        yield OriginalEvidence(row, photo, preprocess.map_to_original(evidence, image_size(read_image(photo, channels))))


def region_of(mask: Tensor) -> dict[str, Any]:
    """Return COCO's entries of a mask (h,w) of True and False: run lengths down the columns, which begin with False."""
    values, counts = mask.T.flatten().unique_consecutive(return_counts=True)
    lengths = [0] * int(values[0]) + counts.tolist()
    y, x = (side.tolist() for side in mask.nonzero().T)
    box = [min(x), min(y), max(x) - min(x) + 1, max(y) - min(y) + 1] if x else [0, 0, 0, 0]
    return {"segmentation": {"size": list(mask.shape), "counts": lengths}, "area": len(x), "bbox": box}
