"""How good an explanation is: plain functions in this room, each with a small YAML in configs/metric/.

A metric is given saliency (B,1,H,W) in [0,1], high where the evidence is, and asks for more by the names of its parameters:

classifier     pictures (N,3,H,W) in [0,1] -> logits (N, classes), frozen
images         (B,3,H,W) in [0,1]
targets        (B,) the class that each row explains
places         a list of B: `Annotation` (data/regions.py), or None where the dataset does not say where the class is
mask           (B,1,H,W) 1 keeps, 0 perturbs, and
game           what it was learnt for
perturbations  name -> function (images -> perturbed images), first the one that the mask was learnt with, and
judged         (3,B) the class's probability on the photo, under the mask and with all perturbed, as the search has them
explain        (classifier, images, targets, seed) -> saliency, for metrics of the method and not of one map; it is always
               asked for all B rows, in their order, of changed images, targets or parameters

It returns (B,), or a dict of suffix -> (B,) whose "" is the main value; NaN where a row has no such value. A suffix with
an @ is one point of a curve or a grid, from which a summary is made. A function may carry two attributes: `protocol`, what
must be said with its numbers beside its options, and `summary` (columns, options by name -> suffix -> Scored) where it is
not just the mean over rows.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.utilities import dim_zero_cat

from mpx.parts import asks, offer

AVAILABLE = ("saliency", "classifier", "images", "targets", "places", "mask", "game", "perturbations",
             "judged", "explain")  # fmt: skip
DRAWS = 1000  # of the bootstrap


class Scored(NamedTuple):
    """What an average is made of."""

    values: Tensor  # (N,); NaN: a row that does not count
    groups: Tensor | None = None  # (N,) int: the mean is over the means of these
    note: dict = {}  # what to say with it


class Metric(torchmetrics.Metric):
    """A metric's function over a dataset: each row's columns are kept, and summarised with an interval."""

    full_state_update = False

    def __init__(self, function: Callable, summarise: Callable | None = None, **kwargs):
        super().__init__(**kwargs)
        self.function, self.summarise, self.columns = function, summarise, []
        self.add_state("values", [], dist_reduce_fx="cat")  # (B, columns) each
        self.add_state("classes", [], dist_reduce_fx="cat")  # (B,) each

    def update(self, saliency: Tensor, **available) -> None:
        self.add(rows(self.function, saliency, **available), available.get("targets"))

    def add(self, columns: dict[str, Tensor], targets: Tensor | None = None) -> None:
        """Rows measured before: suffix -> (B,)."""
        self.columns += [name for name in columns if name not in self.columns]
        first = next(iter(columns.values()))
        nan = torch.full_like(first, torch.nan)
        self.values = self._even([*self.values, torch.stack([columns.get(name, nan) for name in self.columns], 1)])
        self.classes.append(torch.zeros(len(first)).to(first) if targets is None else targets.to(first))

    def compute(self) -> dict:
        """The main value's {"value", "interval95", "n"} and, where there are others, "parts": suffix -> the same."""
        if not len(self.values):
            return {"value": None, "interval95": None, "n": 0}
        values = dim_zero_cat(self._even(self.values) if isinstance(self.values, list) else self.values)
        return summarise(self.function, dict(zip(self.columns, values.T)), dim_zero_cat(self.classes).long(), self.summarise)

    @property
    def protocol(self) -> dict:
        return protocol(self.function)

    def _even(self, tables: list[Tensor]) -> list[Tensor]:  # a column that comes up later is NaN before
        return [F.pad(table, (0, len(self.columns) - table.shape[1]), value=torch.nan) for table in tables]


def rows(function: Callable, saliency: Tensor, **available) -> dict[str, Tensor]:
    """One metric of B rows: suffix -> (B,) float32. A Classifier is frozen meanwhile; any other must be in eval mode."""
    missing = [name for name in AVAILABLE[1:] if asks(function, name) and available.get(name) is None]
    if missing:
        raise ValueError(f"metric {_name(function)} needs {' and '.join(missing)}, not given here: leave the metric out")
    classifier = available.get("classifier")
    if not hasattr(classifier, "frozen") and getattr(classifier, "training", False):
        raise ValueError(f"{type(classifier).__name__} is in training mode: call eval(), or wrap it in mpx's Classifier")
    with classifier.frozen() if hasattr(classifier, "frozen") else nullcontext():
        found = offer(function, saliency, **{name: value for name, value in available.items() if value is not None})
    found = found if isinstance(found, dict) else {"": found}
    return {suffix: values.float().to(saliency.device) for suffix, values in found.items()}


def measure(metrics: dict[str, Callable], saliency: Tensor, **available) -> dict[str, Tensor]:
    """Several metrics (functions or `Metric`s, which are not updated) of B rows: column (name, or name_suffix) -> (B,)."""
    found = {}
    for name, metric in metrics.items():
        function = metric.function if isinstance(metric, Metric) else metric
        for suffix, values in rows(function, saliency, **available).items():
            found[f"{name}_{suffix}" if suffix else name] = values
    return found


def summarise(function: Callable, columns: dict[str, Tensor], targets: Tensor, summary=None, images=None) -> dict:
    """A metric over N rows, from its columns (suffix -> (N,)), as `Metric.compute` returns it.

    images: (N,) a number for each row's image; None: each row has its own.
    """
    images = torch.arange(len(targets)) if images is None else images
    summary = summary or getattr(_plain(function), "summary", None)
    if summary is None:
        scored = {suffix: Scored(values) for suffix, values in columns.items() if "@" not in suffix}
    else:
        scored = offer(summary, columns, **{**_options(function), "targets": targets, "images": images})
    found = {suffix: {**average(s.values, s.groups, images), **s.note} for suffix, s in scored.items()}
    main = found.pop("", {"value": None, "interval95": None, "n": 0})
    return {**main, "parts": found} if found else main


def average(values: Tensor, groups: Tensor | None = None, images: Tensor | None = None) -> dict:
    """The mean of the finite values (N,), or of their groups' means, and the middle 95 % of its bootstrap (seed 0).

    images: (N,) a number for each row's image, None: each has its own. An image is drawn with all its rows, which do not
    vary independently.
    """
    finite = values.isfinite()
    values = values[finite].cpu().double()
    if not len(values):
        return {"value": None, "interval95": None, "n": 0}
    of, groups = (
        default if given is None else given[finite].cpu().unique(return_inverse=True)[1]
        for given, default in ((images, torch.arange(len(values))), (groups, torch.zeros(len(values), dtype=torch.long)))
    )
    rows = pad_sequence(of.argsort(stable=True).split(of.bincount().tolist()), True, len(values))  # (I,R) of each image
    padded = (*(F.pad(x, (0, 1)) for x in (values, groups)), F.pad(torch.ones_like(values), (0, 1)))  # by a row of no weight
    random = torch.Generator().manual_seed(0)
    at_once = max(1, 2**20 // rows.numel())
    means = []
    for start in range(0, DRAWS, at_once):
        draw = rows[torch.randint(len(rows), (min(at_once, DRAWS - start), len(rows)), generator=random)].flatten(1)
        means.append(_mean(*(x[draw] for x in padded)))
    interval = (
        torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist() if len(rows) > 1 else None
    )
    return {"value": _mean(*(x[None] for x in padded)).item(), "interval95": interval, "n": len(values)}


def _mean(values: Tensor, groups: Tensor, weights: Tensor) -> Tensor:  # (D,N) each -> (D,)
    sums, counts = (
        torch.zeros(len(values), int(groups.max()) + 1, dtype=values.dtype).scatter_add_(1, groups, what)
        for what in (values, weights)
    )
    return (sums / counts.clamp(min=1)).sum(1) / (counts > 0).sum(1)


def protocol(function: Callable) -> dict:
    """What belongs with a metric's numbers: function, options, and what the function says of itself."""
    plain = _plain(function)
    return {"function": _name(function), "options": _options(function), **getattr(plain, "protocol", {})}


def _options(function: Callable) -> dict:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    chosen = {p.name: p.default for p in parameters if p.name not in AVAILABLE and p.default is not p.empty}
    return {name: [*v] if isinstance(v, Sequence) and not isinstance(v, str) else v for name, v in chosen.items()}


def _plain(function: Callable) -> Callable:
    return function.func if isinstance(function, partial) else function


def _name(function: Callable) -> str:
    plain = _plain(function)
    return f"{plain.__module__}.{getattr(plain, '__qualname__', type(plain).__name__)}"
