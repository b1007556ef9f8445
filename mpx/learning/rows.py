"""Rows: one problem each, of an image, a target and, where the method asks for one, an area."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mpx.data.annotations import Annotation, Region


@dataclass(frozen=True)
class Row:
    """One problem to solve."""

    image: Tensor  # (C,H,W) in [0,1]
    target: int  # class index
    image_name: str
    area: float | None = None  # share of the image asked for
    image_index: int = 0  # of the image in its dataset
    annotation: Annotation | None = None  # where the target is, where the dataset says so
    regions: dict[int | str, Region] = field(default_factory=dict)  # label -> Region, all that the dataset says of the image
    provenance: dict[str, Any] = field(default_factory=dict)  # stored with the row; a resumed run recognizes the row by it

    @property
    def key(self) -> str:
        """Which of its image's rows this is."""
        return f"{self.target}" if self.area is None else f"{self.target} {self.area:g}"
