"""The folder of a run, read in Python.

>>> run = mpx.load("outputs/night1")  # or mpx.run("images=photos", "experiment=fong2017", name="night1")
>>> run.arrays("saliency")  # (N,H,W) in [0,1], high where the evidence is
>>> run.to_dataframe()  # the lines of results.csv
"""

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mpx.errors import Error
from mpx.runs.store import load_row, picture_files
from mpx.runs.tables import FILE_COLUMNS, parse_number, read_csv

if TYPE_CHECKING:
    import pandas

TEXT_COLUMNS = ("image", "class", "mask", FILE_COLUMNS[0])


class Run:
    """The folder of a run whose results are written. Masks are read when they are asked for."""

    def __init__(self, folder: str | PathLike):
        """Raises Error where the folder holds no results."""
        self.folder = Path(folder).expanduser()
        try:
            lines = read_csv(self.folder / "results.csv")
            self.summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Error(
                f"{str(folder)!r} is not the folder of a run ({type(error).__name__}: {error}): give one that holds "
                "results.csv and summary.json"
            ) from error
        self.rows: list[dict[str, Any]] = [
            {key: text if key in TEXT_COLUMNS else parse_number(text) for key, text in line.items()} for line in lines
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> dict[str, Any]:
        """Return all that is stored of a row, see outputs/README.md: "saliency" and "mask" (H,W), "curves", values, ..."""
        stored = load_row(self.folder / self.rows[index]["mask"])
        if stored is None:
            raise Error(f"{self.folder / self.rows[index]['mask']} is missing or damaged: run the command again")
        return stored

    def arrays(self, name: str = "saliency") -> np.ndarray:
        """Return an array of every row as one, (N,...) float32: "saliency", "mask" or "parameter"."""
        arrays = [np.asarray(self.row(index)[name], np.float32) for index in range(len(self))]
        if len(shapes := {array.shape for array in arrays}) > 1:
            raise Error(f"{name!r} has several shapes, {sorted(shapes)}: read one row at a time, run.row(0)[{name!r}]")
        return np.stack(arrays) if arrays else np.empty(0, np.float32)

    def panel(self, index: int = 0) -> Image.Image:
        """Return the picture of a row, see `Explanation.panel`."""
        file, _ = picture_files(self.folder, Path(self.rows[index]["mask"]).stem)
        if not file.is_file():
            raise Error(f"there is no {file}: pictures= says how many images have one")
        return Image.open(file)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the rows as a table of pandas."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise Error("to_dataframe() needs a package that is not installed: pip install pandas") from error
        return pandas.DataFrame(self.rows)

    def __repr__(self) -> str:
        return f"Run of {len(self)} rows in {self.folder}"


def load(folder: str | PathLike) -> Run:
    """Return a run by its folder. Raises Error, one sentence, where the folder holds no results."""
    return Run(folder)
