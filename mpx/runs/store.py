"""What a run leaves behind: masks, panels, evolutions, tables and a summary.

Every file appears whole or not at all: it is written under a temporary name beside its place, forced to disk, then renamed.
A row's mask is written last, so a file in masks/ says that its panel and evolution are there too; it holds all that the
tables and the mean curves need. No file holds a pickle, a number that JSON does not know, or a text that a spreadsheet would
run.
"""

import csv
import errno
import io
import json
import math
import os
import platform
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mpx.metrics.drops import LEAST
from mpx.pictures import panels as render

PHOTO = ("path", "file_bytes")  # of the image; tables of older runs lack them
COLUMNS = ("image", "target", "class", "area_asked", "p_before", "p_after", "p_reference", "p_normalised", "area", "passes",
           "forwards", "seconds", "mask", *PHOTO)  # fmt: skip
NUMBERS = ("p_before", "p_after", "p_reference", "area", "passes", "forwards", "seconds")
STAMP = {"problems", "label", "file_bytes", "made_by", "pictures"}  # by which a session knows a row again
FAILED = "failed.txt"  # in the folder of a sweep's job: why it could not be done
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a text starts that a spreadsheet would run
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "mpx")


def write(path, data: bytes | str) -> None:
    """Writes the file whole or leaves what was there. Text is UTF-8, what cannot be is escaped."""
    with writing(Path(path)) as file:
        file.write(data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace"))


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file for bytes, which appears at its place when all are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # of its own on each machine that shares the folder
    try:
        with _naming(path):
            with open(draft, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a full disk does not say which
        raise type(error)(error.errno, error.strerror, str(path)) from error


def save_row(folder, e, i: int, pictures: bool = True, **stamp) -> None:
    """panels/<name>.png, evolution/<name>.gif and, last, masks/<name>.npz of row i; `stamp`: more for the last."""
    folder, name, mask = Path(folder), e.names[i], io.BytesIO()
    np.savez_compressed(
        mask,
        parameter=e.parameter[i].float().squeeze(0).numpy(),  # (h,w), but for special masks
        saliency=e.saliency[i, 0].half().numpy(),  # (H,W)
        terms=np.array(list(e.curves), np.str_),
        curves=np.array([values[:, i].tolist() for values in e.curves.values()], np.float32),  # (terms, steps)
        **scalars(e, i),
        game=e.game,
        pictures=pictures,
        **(render.views(e, i) if pictures else {}),
        **stamp,
    )
    if pictures:
        picture = io.BytesIO()
        render.panel(e, i).save(picture, "PNG")
        write(folder / "panels" / f"{name}.png", picture.getvalue())
        write(folder / "evolution" / f"{name}.gif", render.animation(e, i))
    write(folder / "masks" / f"{name}.npz", mask.getvalue())


def rewrite(path: Path, row: dict) -> None:
    """A row on disk as `load_row` gave it, changed."""
    file = io.BytesIO()
    np.savez_compressed(file, **row)
    write(path, file.getvalue())


def load_row(path: Path, mine: Callable[[str], bool] = lambda image: True) -> dict | None:
    """What a run's masks/<name>.npz holds, or None where it is not whole, or its image not mine.

    All is read, so checksums are compared.
    """
    try:
        with np.load(path) as file:
            if not mine(file["image"].item()):
                return None
            row = {key: file[key] if file[key].ndim else file[key].item() for key in file.files}
        whole = row["name"] == path.stem and row["saliency"].ndim == 2
        whole = whole and len(row["curves"]) == len(row["terms"]) and row["problem"] in row["problems"]
        return row if whole and STAMP <= row.keys() and table_row(row) else None
    except Exception:  # a damaged zip raises OSError, ValueError, zlib.error, NotImplementedError, RuntimeError, ...
        return None


def scalars(e, i: int) -> dict:
    """Row i but for its arrays."""
    p = (float(x[i]) for x in (e.p_before, e.p_after, e.p_reference))
    texts = {"name": e.names[i], "image": e.images[i], "target": int(e.targets[i]), "class": e.classes[i]}
    numbers = (*p, *(float(x[i]) for x in (e.area, e.passes, e.forwards, e.seconds)))
    return texts | {"area_asked": round(float(e.areas[i]), 6)} | dict(zip(NUMBERS, numbers))


def table_rows(e) -> list[dict]:
    """One dict of COLUMNS for each row."""
    return [table_row(scalars(e, i)) for i in range(len(e.names))]


def table_row(row: dict) -> dict:
    """COLUMNS of `scalars` or `load_row`, and its metrics; p_normalised is 1 at the photo's probability, 0 at the fully
    perturbed one's, NaN where they differ by less than LEAST."""
    before, after, reference = (row[k] for k in NUMBERS[:3])
    normalised = (after - reference) / (before - reference) if before - reference >= LEAST else math.nan
    asked = row["area_asked"] if row["area_asked"] == row["area_asked"] else ""  # NaN: none
    row = row | {"p_normalised": normalised, "mask": f"masks/{row['name']}.npz", "area_asked": asked}
    return {column: row.get(column, "") for column in COLUMNS} | measured(row.get("metrics", "{}"))


def measured(metrics: str) -> dict[str, float | None]:
    """The columns of a row's metrics, from what is stored of them."""
    return {
        f"{name}_{suffix}" if suffix else name: value
        for name, found in json.loads(metrics).items()
        for suffix, value in found.items()
    }


def columns(rows: list[dict]) -> tuple[str, ...]:
    """COLUMNS, then those of the rows' metrics, without the points of curves."""
    return tuple(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row if "@" not in column)]))


def write_csv(path, rows: list[dict], columns: Sequence[str] = COLUMNS) -> None:
    """Numbers with six digits; a text starting like a formula gets a leading apostrophe."""
    write(path, csv_text([dict(zip(columns, columns)), *rows], columns))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a table as they were before `_cell` made their texts safe."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: v[1:] if v[:1] == "'" and v[1:].startswith(FORMULA) else v for k, v in line.items()}
                for line in csv.DictReader(file, restval="")]  # fmt: skip


def number(text: str | None) -> float:
    """Of a table's cell; NaN where it is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def append_csv(path: Path, rows: list[dict], columns: Sequence[str] = COLUMNS) -> None:
    """In one write, so that who reads meanwhile sees whole lines."""
    if not path.exists():
        write_csv(path, [], columns)
    lines = csv_text(rows, columns).encode("utf-8", "backslashreplace")
    with _naming(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        if file.write(lines) < len(lines):  # as much as the disk had room for
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def csv_text(rows: list[dict], columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(row.get(c, "")) for c in columns] for row in rows)
    return text.getvalue()


def write_skipped(path: Path, skipped: list[tuple[str, str]]) -> None:
    """No file where there is none."""
    if skipped:
        write_csv(path, [{"image": name, "reason": reason} for name, reason in skipped], ("image", "reason"))
    else:
        path.unlink(missing_ok=True)


def write_figure(path: Path, page) -> None:
    """A page of matplotlib's as a PNG."""
    file = io.BytesIO()
    page.savefig(file, dpi=120, format="png")
    write(path, file.getvalue())


def _cell(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_json(path, values: dict) -> None:
    """What is not finite becomes null."""
    write(path, json.dumps(_plain(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # an array, a tensor or one of their numbers
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def summary(rows: list[dict], n_skipped: int, n_missing: int, protocol: dict) -> dict:
    """Mean, median and a 95 % bootstrap interval of the mean over the rows, and where they come from.

    n counts rows, n_skipped and n_missing (not reached yet) count images.
    """
    normalised = [row["p_normalised"] for row in rows if math.isfinite(row["p_normalised"])]
    return {
        "n": len(rows),
        "n_skipped": n_skipped,
        "n_missing": n_missing,
        **{
            k: statistics([row[k] for row in rows], [row["image"] for row in rows])
            for k in ("p_normalised", "p_after", "area", "passes", "forwards", "seconds")
        },
        "share_p_normalised_below_0.1": sum(p <= 0.1 for p in normalised) / len(normalised) if normalised else None,
        "protocol": protocol,
        "versions": versions(),
    }


def statistics(values: Iterable[float], images: Iterable | None = None, draws: int = 1000) -> dict:
    """Of the finite values; the interval is the percentile bootstrap, always from the same seed.

    images: of each value; one is drawn with all its values, which do not vary independently. None: each has its own. The
    interval needs two.
    """
    finite = [(v, image) for v, image in zip(values, count() if images is None else images) if math.isfinite(v)]
    x, numbers = np.array([v for v, _ in finite]), {}
    of = np.array([numbers.setdefault(image, len(numbers)) for _, image in finite], int)
    sums, counts, rng = np.bincount(of, x), np.bincount(of), np.random.default_rng(0)
    at_once = max(1, 2**16 // max(1, len(sums)))
    sizes = [min(at_once, draws - start) for start in range(0, draws, at_once)] if len(sums) > 1 else []
    drawn = (rng.integers(len(sums), size=(size, len(sums))) for size in sizes)
    means = [sums[draw].sum(1) / counts[draw].sum(1) for draw in drawn]
    return {
        "n": len(x),
        "mean": x.mean().item() if len(x) else None,
        "median": np.median(x).item() if len(x) else None,
        "interval95": np.percentile(np.concatenate(means), [2.5, 97.5]).tolist() if means else None,
    }


def versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name.replace("-", "_"): _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def format_table(rows: list[dict], width: int = 100) -> str:
    """The rows as aligned text, at most `width` terminal cells wide; image and class share what the numbers leave."""
    head = ("image", "class", "probability", "area", "seconds")
    cells = [(row["image"], row["class"], f"{row['p_before']:.3f} → {row['p_after']:.3f}",
              render.percent(row["area"]), f"{row['seconds']:.1f}") for row in rows]  # fmt: skip
    columns = [[printable(c) for c in column] for column in zip(head, *cells)]
    widths = [max(map(_cells, column)) for column in columns]
    room = width - sum(widths[2:]) - 2 * (len(head) - 1)
    widths[0] = min(widths[0], max(room // 2, room - widths[1]))
    widths[1] = min(widths[1], room - widths[0])
    lines = []
    for line in zip(*columns):
        texts = [render.shorten(t, w, _cells) for t, w in zip(line[:2], widths)]
        texts = [t + " " * (w - _cells(t)) for t, w in zip(texts, widths)]
        lines.append("  ".join(texts + [t.rjust(w) for t, w in zip(line[2:], widths[2:])]))
    return "\n".join(lines)


def format_metrics(metrics: dict[str, dict]) -> str:
    """A line for each number of a summary's metrics: its mean and interval."""
    lines = []
    for name, found in metrics.items():
        if found["value"] is not None:
            spread = "[{:.3f}, {:.3f}]  ".format(*found["interval95"]) if found["interval95"] else ""
            lines.append(f"{name:<28} {found['value']:8.3f}  {spread}of {found['n']} rows")
    return "\n".join(lines)


def printable(text: str) -> str:
    """On one line, without control characters: a file name must not be able to drive the terminal."""
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())


def _cells(text: str) -> int:
    """Terminal cells: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
