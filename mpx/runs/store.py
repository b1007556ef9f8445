"""Rows on disk: a panel, an animation (of a learnt mask) and a mask file each.

The mask file is written last. A mask file that can be read therefore means that the row's other files are complete; it holds
all that the tables, the mean curves and report.html need. Nothing is pickled.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpx.pictures.animation import animation_webp
from mpx.pictures.encoding import encode_png
from mpx.pictures.panel import draw_panel
from mpx.pictures.snapshots import snapshots
from mpx.runs.files import write_file
from mpx.runs.tables import NUMBER_COLUMNS, row_values, table_row

if TYPE_CHECKING:
    from mpx.explanation import Explanation

FAILED = "failed.txt"  # in the folder of a sweep's job: the reason why the job failed
PROVENANCE = {"row_keys", "made_from", "file_bytes", "computed_with", "pictures"}  # a resumed run recognises a row by these
SMALL_ENTRY = 512  # bytes of a mask file's entry
TEXTS = ("image", "class", "row_key", "made_from", "computed_with")


def save_row(folder: str | Path, explanation: "Explanation", row: int, pictures: bool = True, **provenance: Any) -> None:
    """Write row `row`: where `pictures`, panels/<name>.png and of a learnt mask evolution/<name>.webp; masks/<name>.npz.

    provenance: more entries of the mask file, see PROVENANCE.
    """
    folder = Path(folder)
    name = explanation.names[row]
    drawn = [encode_png(draw_panel(explanation, row))] if pictures else []
    if pictures and explanation.is_learnt:
        drawn.append(animation_webp(explanation, row))
    for path, data in zip(picture_files(folder, name), drawn):
        write_file(path, data)
    values = {
        "parameter": explanation.parameter[row].float().squeeze(0).numpy(),  # (h,w), other shapes for masks that are no grid
        "mask": explanation.mask[row, 0].half().numpy(),  # (H,W)
        "saliency": explanation.saliency[row, 0].half().numpy(),  # (H,W)
        "terms": np.array(list(explanation.curves), np.str_),
        "curves": np.array([curve[:, row].tolist() for curve in explanation.curves.values()], np.float32),  # (terms, steps)
        **row_values(explanation, row),
        "pictures": pictures,
        "picture_digest": sha256(b"".join(drawn)).hexdigest(),
        **(snapshots(explanation, row) if pictures else {}),
        **provenance,
    }
    replace_row(folder / "masks" / f"{name}.npz", values)


def picture_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the panel and the animation of the row of a name."""
    return folder / "panels" / f"{name}.png", folder / "evolution" / f"{name}.webp"


def has_pictures(folder: Path, row: dict[str, Any]) -> bool:
    """Return whether the pictures of a loaded row, where it has any, are those that were written with it."""
    if not row["pictures"]:
        return True
    try:
        data = b"".join(path.read_bytes() for path in picture_files(folder, row["name"]) if path.is_file())
    except OSError:
        return False
    return sha256(data).hexdigest() == row["picture_digest"]


def mask_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a run's masks/, but for partial ones."""
    if (folder / "masks").is_dir():
        yield from (Path(entry.path) for entry in os.scandir(folder / "masks") if not entry.name.startswith("."))


def replace_row(path: Path, values: dict[str, Any]) -> None:
    """Write a mask file with these entries, e.g. those of `load_row`, changed."""
    write_file(path, encode_npz(values))


def encode_npz(values: dict[str, Any]) -> bytes:
    """Return what `np.savez_compressed` writes, in a third of the time: small entries are not compressed."""
    entries, directory = bytearray(), bytearray()
    for key, value in values.items():
        array = np.asarray(value, order="C")
        assert not array.dtype.hasobject, key  # nothing is pickled
        data, name = _npy_header(array.dtype.str, array.shape) + array.tobytes(), f"{key}.npy".encode()
        method, deflated = 0, data
        if len(data) > SMALL_ENTRY:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            method, deflated = 8, deflate.compress(data) + deflate.flush()
        # version, flag of names in UTF-8, method, time, date (1 Jan 1980), checksum, sizes, lengths of name and extra field
        fields = struct.pack("<5H3L2H", 20, 2048, method, 0, 33, zlib.crc32(data), len(deflated), len(data), len(name), 0)
        directory += b"PK\1\2\x14\0" + fields + struct.pack("<3H2L", 0, 0, 0, 0, len(entries)) + name
        entries += b"PK\3\4" + fields + name + deflated
    count = len(values)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(entries), 0)
    return bytes(entries + directory + end)


@lru_cache(1024)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def is_row(path: Path) -> bool:
    """Return whether a file is a row that mpx wrote."""
    if not path.is_file():  # a pipe would block
        return False
    try:
        with np.load(path) as file:
            return "row_key" in file.files and file["name"].item() == path.stem
    except Exception:  # see load_row
        return False


def load_row(path: Path, includes: Callable[[str], bool] = lambda image: True) -> dict[str, Any] | None:
    """Return the entries of masks/<name>.npz; None where the file is damaged or `includes(image)` is false.

    All entries are read, which verifies their checksums.
    """
    if not path.is_file():  # a pipe would block
        return None
    try:
        with np.load(path) as file:
            if not includes(file["image"].item()):
                return None
            row = {key: file[key] if file[key].ndim else file[key].item() for key in file.files}
        valid = row["name"] == path.stem and is_valid(row)
        valid = valid and len(row["curves"]) == len(row["terms"]) and row["curves"].dtype.kind == "f"
        valid = valid and all(row[key].ndim == 2 and np.isfinite(row[key]).all() for key in ("saliency", "mask"))
        return row if valid else None
    except Exception:  # a damaged zip raises OSError, ValueError, zlib.error, NotImplementedError, RuntimeError, ...
        return None


def is_valid(row: dict[str, Any]) -> bool:
    """Return whether a row's texts and numbers are those of a finished row; an error where one is of another kind."""
    valid = PROVENANCE <= row.keys() and row["row_key"] in row["row_keys"]
    valid = valid and all(isinstance(row[key], str) for key in TEXTS)
    valid = valid and all(isinstance(row[column], float) for column in NUMBER_COLUMNS) and isfinite(row["area"])
    valid = valid and isinstance(row["target"], int) and isinstance(json.loads(row.get("evaluated_with") or "{}"), dict)
    return valid and bool(table_row(row))
