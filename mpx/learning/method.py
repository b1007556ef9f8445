"""A method: the operators, the game and how the search goes, without any image."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mpx.operators import requires_area

# game -> what the network is shown: (which of the masks, whether its complement, weight of the score to minimise)
GAMES = {
    "deletion": [(0, False, 1.0)],
    "preservation": [(0, False, -1.0)],
    "dual": [(0, False, 1.0), (0, True, -1.0)],
    # a mask to delete, one to preserve, and their product, which is the result and does both (Khorram et al. 2021)
    "product": [(0, False, 0.5), (0, True, -0.5), (1, False, 0.5), (2, True, -0.5)],
}
TYPES = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}  # precision -> what the network computes in


@dataclass(frozen=True)
class Method:
    """What was chosen: one operator of each kind and how to search. All callables; mpx.config builds one."""

    perturbation: Callable
    mask: Callable  # (context: MaskContext) -> Mask
    score: Callable
    regularizers: dict[str, tuple[float, Callable]] = field(default_factory=dict)  # name -> (weight, function)
    image_augmentations: list[Callable] = field(default_factory=list)  # augments of photo and perturbed photo alike
    input_augmentations: list[Callable] = field(default_factory=list)  # augments of the picture the network sees
    game: str = "deletion"
    dual_weight: float = 1.0  # of a dual's preservation, beside its deletion
    gradient: Callable | None = None  # () -> points of the path that the score is averaged over; None: the mask itself
    areas: tuple[float | None, ...] = (None,)  # asked: a row of each image and target for each
    samples: int = 1
    steps: int = 150
    optimizer: Callable = torch.optim.Adam
    scheduler: Callable | None = None
    stop: Callable | None = None  # (means of the objective so far) -> the rate of a row's step, 0: it is over
    precision: str = "32"
    compile: bool = False  # the network by torch.compile, for the search
    seed: int = 0
    explainer: Callable | None = None  # (photos, ...) -> relevance (B,1,H,W), in the place of the search; mpx.explainers

    def __post_init__(self):
        if self.game not in GAMES:
            raise ValueError(f"game={self.game!r} must be one of {', '.join(GAMES)}")
        if self.precision not in TYPES:
            raise ValueError(f"precision={self.precision!r} must be '32', 'bf16' or '16'")
        for name in ("samples", "steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number, at least 1")
        for area in self.areas:
            if area is not None and (isinstance(area, bool) or not isinstance(area, (int, float)) or not 0 < area < 1):
                raise ValueError(f"area={area!r} must be a share of the image, above 0 and below 1, or a list of these")
        if not self.areas or len(self.areas) > 1 and None in self.areas or len(set(self.areas)) < len(self.areas):
            raise ValueError(f"area={list(self.areas)} must name one or several different shares of the image")
        if self.stop:
            self.stop([])  # says what is wrong with its options
        parts = {"optimizer": self.optimizer, "mask": self.mask, **{k: term for k, (_, term) in self.regularizers.items()}}
        if None in self.areas and (needy := [name for name, part in parts.items() if requires_area(part)]):
            raise ValueError(f"{needy[0]} needs area=, the share of the image that shall be evidence, e.g. area=0.1")
        if None not in self.areas and not any(requires_area(part) for part in parts.values()):
            raise ValueError(
                f"area={list(self.areas)}: nothing that was chosen looks at it; regularizer=[area,...] or "
                'optimizer=frank_wolfe do, and in Python method=mpx.method("extremal2019")'
            )
        weights = {f"lambda_{name}": weight for name, (weight, _) in self.regularizers.items()}
        for name, weight in (weights | {"dual_weight": self.dual_weight}).items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight!r} must be a number, 0 or larger")
