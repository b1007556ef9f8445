"""The folder of a run, read in Python.

>>> run = mpx.load("outputs/night1")  # or mpx.run("images=photos", "experiment=fong2017", name="night1")
>>> run.arrays("saliency")  # (N,H,W) in [0,1], high where the evidence is
>>> run.to_dataframe()  # the lines of results.csv
"""

import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mpx.errors import Error
from mpx.runs.store import picture_files
from mpx.runs.tables import FILE_COLUMNS, as_dataframe, parse_number, read_csv

if TYPE_CHECKING:
    import pandas

    from mpx.data.items import Item
    from mpx.explanation import Explanation
    from mpx.learning.method import Method
    from mpx.models.classifier import Classifier

TEXT_COLUMNS = ("image", "class", "verdict", "mask", FILE_COLUMNS[0])


class Run:
    """The folder of a run whose results are written, or of `Explanation.save`. Masks are read when they are asked for.

    rows: the lines of results.csv; texts and floats, NaN where a cell is empty. summary: what summary.json says.
    """

    def __init__(self, folder: str | PathLike):
        """Raises Error where the folder holds no results."""
        self.folder = Path(folder).expanduser()
        try:
            lines = read_csv(self.folder / "results.csv")
            summary = self.folder / "summary.json"
            self.summary: dict[str, Any] = json.loads(summary.read_text("utf-8")) if summary.exists() else {}
        except (OSError, ValueError) as error:
            raise Error(
                f"{str(folder)!r} is not the folder of a run ({type(error).__name__}: {error}): give one that holds "
                "results.csv"
            ) from error
        self.rows: list[dict[str, Any]] = [
            {key: text if key in TEXT_COLUMNS else parse_number(text) for key, text in line.items()} for line in lines
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> dict[str, Any]:
        """Return all that is stored of a row, see outputs/README.md: "saliency" and "mask" (H,W), "curves", values, ..."""
        path = self.folder / self.rows[index]["mask"]
        try:
            with np.load(path) as file:
                return {key: file[key] if file[key].ndim else file[key].item() for key in file.files}
        except Exception as error:  # a damaged zip raises many kinds
            raise Error(f"{path} is missing or damaged ({type(error).__name__}): run the command again") from error

    def arrays(self, name: str = "saliency") -> np.ndarray:
        """Return an array of every row as one, (N,...) float32: "saliency", "mask" or "parameter"."""
        arrays = [np.asarray(self.row(index)[name], np.float32) for index in range(len(self))]
        if len(shapes := {array.shape for array in arrays}) > 1:
            raise Error(f"{name!r} has several shapes, {sorted(shapes)}: read one row at a time, run.row(0)[{name!r}]")
        return np.stack(arrays) if arrays else np.empty(0, np.float32)

    def explanation(self, index: int = 0) -> "Explanation":
        """Return a row as explain() returns it, for mpx.evaluate and other pictures; the network runs on its image again.

        Its one frame is the result. Raises Error where the image, the network or the run's configuration is not as it was.
        """
        from mpx.config_errors import run_error_sentence
        from mpx.runs.stored_rows import explanation_of

        try:
            method, classifier, items, target = self._parts
            item = next(item for item in items if item.name == self.rows[index]["image"])
            return explanation_of(method, classifier, item, self.row(index), target)
        except StopIteration:
            name = self.rows[index]["image"]
            raise Error(f"{name} is not among the images of {self.folder} any more: put it back") from None
        except Exception as error:
            if sentence := run_error_sentence(error, {}):
                raise Error(sentence) from error
            raise

    @cached_property
    def _parts(self) -> "tuple[Method, Classifier, list[Item], Any]":
        from mpx.config_plan import stored_parts

        return stored_parts(self.folder)

    def panel(self, index: int = 0) -> Image.Image:
        """Return the picture of a row, see `Explanation.panel`."""
        file, _ = picture_files(self.folder, Path(self.rows[index]["mask"]).stem)
        if not file.is_file():
            raise Error(f"there is no {file}: pictures= says how many images have one")
        return Image.open(file)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table of pandas with a line for each row: the columns of results.csv."""
        return as_dataframe(self.rows)

    def __repr__(self) -> str:
        return f"Run of {len(self)} rows in {self.folder}"


def load(folder: str | PathLike) -> Run:
    """Return a run by its folder. Raises Error, one sentence, where the folder holds no results."""
    return Run(folder)
