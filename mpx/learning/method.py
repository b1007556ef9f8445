"""A method: the game, its operators and its optimization, chosen without any image."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from mpx import rankings
from mpx.operators import check_call, requires_area
from mpx.option_values import check_options


class View(NamedTuple):
    """One perturbed image of a row that the network evaluates, and the weight of its score in the objective."""

    mask_index: int  # which of the masks of `Mask.sample`
    complement: bool  # perturbed under 1 - mask
    weight: float  # positive: the score is minimised; negative: maximised


GAMES: dict[str, tuple[View, ...]] = {
    "deletion": (View(0, False, 1.0),),
    "preservation": (View(0, False, -1.0),),
    "dual": (View(0, False, 1.0), View(0, True, -1.0)),
    # a mask to delete, one to preserve, and their product, which is the result and does both (Khorram et al. 2021)
    "product": (View(0, False, 0.5), View(0, True, -0.5), View(1, False, 0.5), View(2, True, -0.5)),
}
PRECISIONS: dict[str, torch.dtype | None] = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}

IMAGES = "images (B,C,H,W), "
CONTRACTS = {  # operator -> the arguments that it is called with, and what it returns
    "perturbation": (IMAGES + "context", "fully perturbed images (B,C,H,W) in [0,1]"),
    "mask": ("context", "an mpx.masks.base.Mask; normally it is a class that derives from Mask"),
    "score": ("logits (B,K), targets (B,), context", "numbers (B,)"),
    "ranking": ("evidence (B,1,H,W), context", "saliency (B,1,H,W) in [0,1]"),
    "explainer": (IMAGES + "classifier, targets (B,), context", "relevance (B,1,H,W)"),
    "regularizer": ("evidence (B,1,h,w), context", "numbers (B,)"),
}
MOST = 1_000_000  # steps, and samples: what a row records of each fits into memory


def check_regularizers(regularizers: Any) -> dict[str, tuple[float, Any]]:
    """Return further terms, name -> (weight, term); raise ValueError for anything else."""
    if not isinstance(regularizers, dict):
        example = {"border": (0.1, "border")}
        raise ValueError(f"regularizers={regularizers!r} must be a dict of weights and terms, e.g. {example}")
    for name, term in regularizers.items():
        if not isinstance(term, (tuple, list)) or len(term) != 2:
            raise ValueError(
                f"regularizers[{name!r}]={term!r} must be a weight and a term: (0.1, an option's name or a function)"
            )
    return regularizers


@dataclass(frozen=True)
class Method:
    """One operator of each kind, and how the masks are optimized. mpx.config builds one from a composed config."""

    perturbation: Callable  # mpx.perturbations.base
    mask: Callable  # mpx.masks.base
    score: Callable  # mpx.scores
    regularizers: dict[str, tuple[float, Callable]] = field(default_factory=dict)  # name -> (weight, function)
    image_augmentations: list[Callable] = field(default_factory=list)  # of the image and the perturbed image alike
    input_augmentations: list[Callable] = field(default_factory=list)  # of the network's input
    game: str = "deletion"
    dual_weight: float = 1.0  # of a dual's preservation, relative to its deletion
    gradient: Callable | None = None  # () -> points of the path over which the score is averaged; None: the mask itself
    areas: tuple[float | None, ...] = (None,)  # requested shares of the image: each gives a row of every image and target
    samples: int = 1  # random draws averaged in each iteration
    steps: int = 150
    optimizer: Callable = torch.optim.Adam
    scheduler: Callable | None = None
    stop: Callable | None = None  # mpx.learning.stopping
    precision: str = "32"  # 32, bf16 or 16: of the network's forward and backward
    compile: bool = False  # whether an iteration is compiled as one graph: mpx.learning.compiled
    seed: int = 0
    ranking: Callable = rankings.mask  # mpx.rankings: the saliency of a finished mask
    prune: float = 0.0  # change of the support up to which parts of the evidence are removed (mpx.learning.pruning)
    explainer: Callable | None = None  # mpx.explainers, in the place of a learnt mask

    def __post_init__(self) -> None:
        if self.game not in list(GAMES):  # also a list, which has no hash
            raise ValueError(f"game={self.game!r} must be one of {', '.join(GAMES)}")
        if self.precision not in list(PRECISIONS):
            raise ValueError(f"precision={self.precision!r} must be '32', 'bf16' or '16'")
        for name, value in (("samples", self.samples), ("steps", self.steps)):
            if type(value) is not int or not 1 <= value <= MOST:
                raise ValueError(f"{name}={value!r} must be a whole number, 1 to {MOST}")
        if type(self.seed) is not int:
            raise ValueError(f"seed={self.seed!r} must be a whole number")
        if self.stop:
            self.stop([])  # raises for options out of range
        if isinstance(self.prune, bool) or not isinstance(self.prune, (int, float)) or not 0 <= self.prune < 1:
            raise ValueError(f"prune={self.prune!r} must be a share, from 0 to below 1")
        terms = check_regularizers(self.regularizers)
        self._check_contracts()
        self._check_areas()
        weights = {f"lambda_{name}": weight for name, (weight, _) in terms.items()}
        for name, weight in (weights | {"dual_weight": self.dual_weight}).items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight!r} must be a number, 0 or larger")

    @staticmethod
    def check(method: "Method") -> "Method":
        """Return the method, or raise ValueError for anything else, such as the name of one."""
        if not isinstance(method, Method):
            raise ValueError(f"method={method!r} must be a Method: mpx.method({method!r}) returns that of an experiment")
        return method

    @property
    def views(self) -> tuple[View, ...]:
        """The views of the game; in a dual, the preservation has its weight."""
        if self.game != "dual":
            return GAMES[self.game]
        deletion, preservation = GAMES["dual"]
        return deletion, preservation._replace(weight=preservation.weight * self.dual_weight)

    def _check_contracts(self) -> None:
        kinds = ["perturbation", "mask", "score", "ranking", "optimizer", *["explainer"] * bool(self.explainer)]
        parts = [(kind, vars(self)[kind]) for kind in kinds]
        for kind, part in [*parts, *(("regularizer", term) for _, term in self.regularizers.values())]:
            if not callable(part):
                raise ValueError(f"{kind}={part!r} must be a function; explain() takes an option's name too")
            if kind == "mask" and isinstance(part, torch.nn.Module):
                raise ValueError(f"mask={type(part).__name__}(...) is a module: give a class, mask(context) -> its masks")
            if isinstance(part, partial):
                check_options(part, kind)
            if kind in CONTRACTS:
                check_call(kind, part, *CONTRACTS[kind])

    def _check_areas(self) -> None:
        for area in self.areas:
            if area is not None and (isinstance(area, bool) or not isinstance(area, (int, float)) or not 0 < area < 1):
                raise ValueError(f"area={area!r} must be a share of the image, above 0 and below 1, or a list of these")
        if not self.areas or len(self.areas) > 1 and None in self.areas or len(set(self.areas)) < len(self.areas):
            raise ValueError(f"area={list(self.areas)} must name one or several different shares of the image")
        parts = {"optimizer": self.optimizer, "mask": self.mask, **{k: term for k, (_, term) in self.regularizers.items()}}
        requiring = [name for name, part in parts.items() if requires_area(part)]
        if None in self.areas and requiring:
            raise ValueError(f"{requiring[0]} needs area=, the requested share of the image, e.g. area=0.1")
        if None not in self.areas and not requiring:
            shown = self.areas[0] if len(self.areas) == 1 else str(list(self.areas)).replace(" ", "")
            raise ValueError(
                f"area={shown}: no operator uses an area; experiment=extremal2019 (in Python method=mpx.method("
                f'"extremal2019", "area={shown}")), regularizer=[area,...] and optimizer=frank_wolfe do'
            )
