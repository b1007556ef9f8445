"""The objective  score(perturb(x, m)) + sum_k lambda_k R_k(saliency)  of a batch of independent rows, and what it found.

A row is one image and one target. Everything stays (B,) per row; the solvers sum it once, so that each row's gradient is
its own and a batch of B gives the masks of B single runs. `minimise` is the plain loop; solver.module runs the same steps
under Lightning.
"""

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpx.operators.perturbations import blend
from mpx.operators.rng import Draws, key
from mpx.operators.scores import probability

# game -> what the network is shown: (perturbed under the mask itself or its complement, sign of the score to minimise)
GAMES = {
    "deletion": [("mask", 1)],
    "preservation": [("mask", -1)],
    "dual": [("mask", 1), ("complement", -1)],
}


@dataclass(frozen=True)
class Recipe:
    """What was chosen: one operator of each kind and how to search. All callables; mpx.config builds one."""

    perturbation: Callable
    mask: Callable  # (image_size=, device=) -> mask kind
    score: Callable
    regularizers: dict[str, tuple[float, Callable]] = field(default_factory=dict)  # name -> (weight, function)
    under_mask: list[Callable] = field(default_factory=list)  # augments of photo and perturbed photo alike
    over_mask: list[Callable] = field(default_factory=list)  # augments of the picture the network sees
    game: str = "deletion"
    samples: int = 1
    steps: int = 150
    optimizer: Callable = torch.optim.Adam
    scheduler: Callable | None = None
    precision: str = "32"
    seed: int = 0

    def __post_init__(self):
        if self.game not in GAMES:
            raise ValueError(f"game={self.game!r} must be one of {', '.join(GAMES)}")
        if self.precision not in ("32", "bf16"):
            raise ValueError(f"precision={self.precision!r} must be '32' or 'bf16'")
        for name in ("samples", "steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number, at least 1")
        for name, (weight, _) in self.regularizers.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"lambda_{name}={weight} must be a number, 0 or larger")


class Problem:
    """A batch of rows prepared for the search: levels of perturbation, the mask kind, the scores to compare with.

    photos: (B,3,H,W) in [0,1]; targets: (B,) class indices; both on the classifier's device. `classifier` is frozen by
    the caller. `names` only serve error messages. `samples`: which of recipe.samples this process draws, None for all.
    """

    def __init__(self, recipe: Recipe, classifier, photos: Tensor, targets: Tensor, names: list[str], samples=None):
        self.samples = range(recipe.samples) if samples is None else samples
        self.recipe, self.classifier, self.photos, self.targets, self.names = recipe, classifier, photos, targets, names
        pixels = (photos.detach().cpu() * 255).round().byte().numpy()
        self.rng = Draws([key(recipe.seed, p.tobytes(), t) for p, t in zip(pixels, targets.tolist())], photos.device)
        self.mask = recipe.mask(image_size=photos.shape[-2:], device=photos.device)
        with torch.no_grad():
            wants_rng = "rng" in inspect.signature(recipe.perturbation).parameters
            prepared = recipe.perturbation(photos, **({"rng": self.rng} if wants_rng else {}))
            self._fresh = prepared if callable(prepared) else None
            self._levels = None if self._fresh else self._stack(prepared)
            self.p_before = self.probability(photos)
            self.p_reference = self.probability(self.levels()[:, 0])

    def _stack(self, perturbed: Tensor) -> Tensor:
        pyramid = perturbed if perturbed.ndim == 5 else perturbed.unsqueeze(1)
        return torch.cat([pyramid, self.photos.unsqueeze(1)], 1)  # (B,K,3,H,W)

    def levels(self, iteration="evaluation", sample: int = 0) -> Tensor:
        """(B,K,3,H,W) from fully perturbed to the photo."""
        return self._levels if self._fresh is None else self._stack(self._fresh(self.rng.at(iteration, sample)))

    def start(self) -> Tensor:
        """Initial parameter (B,1,h,w)."""
        parameter = self.mask.start(self.rng.at("start"))
        if self.mask.init != "disc":
            return parameter
        disc = self._smallest_disc(parameter)
        return 1 - disc if self.recipe.game == "preservation" else disc

    @torch.no_grad()
    def _smallest_disc(self, parameter: Tensor) -> Tensor:
        """Each row's smallest centred disc that takes 99 % of the probability (Fong & Vedaldi 2017, section 4.3).

        The disc is judged as the mask kind renders it; where none is enough, the largest, which covers the photo, serves.
        """
        goal = self.p_reference + 0.01 * (self.p_before - self.p_reference)
        found = torch.zeros_like(goal, dtype=torch.bool)
        for radius in range(0, math.ceil(math.hypot(*self.photos.shape[-2:]) / 2) + 5, 5):
            disc = self.mask.disc(radius).expand_as(parameter)
            parameter = torch.where(found.view(-1, 1, 1, 1), parameter, disc)
            found |= self.probability(self.perturbed(disc)) <= goal
            if found.all():
                break
        return parameter

    def saliency(self, mask: Tensor) -> Tensor:
        """The evidence: what a deletion takes away, what a preservation keeps. Works on parameters as on masks."""
        return mask if self.recipe.game == "preservation" else 1 - mask

    def loss(self, parameter: Tensor, iteration: int) -> dict[str, Tensor]:
        """Every term (B,) at this iteration's random draws: "total" and its parts, and the target's "probability"."""
        recipe, mask = self.recipe, self.mask(parameter)
        views = GAMES[recipe.game]
        pictures = []
        for sample in self.samples:
            levels = self.levels(iteration, sample)
            rng = self.rng.at((iteration, "augment"), sample)
            for augment in recipe.under_mask:
                levels = augment(levels.flatten(1, 2), rng).view_as(levels)
            for view, _ in views:
                picture = blend(levels, mask if view == "mask" else 1 - mask)
                for augment in recipe.over_mask:
                    picture = augment(picture, rng)
                pictures.append(picture)
        logits = self.logits(torch.cat(pictures) if len(pictures) > 1 else pictures[0])
        logits = logits.view(len(self.samples), len(views), len(self.targets), -1)
        target = self.targets.repeat(len(self.samples))
        score = sum(
            sign * recipe.score(logits[:, v].flatten(0, 1), target).view(len(self.samples), -1).mean(0)
            for v, (_, sign) in enumerate(views)
        )
        saliency = self.saliency(parameter)
        terms = {name: weight * function(saliency) for name, (weight, function) in recipe.regularizers.items()}
        with torch.no_grad():
            p = probability(logits[:, 0].flatten(0, 1), target).view(len(self.samples), -1).mean(0)
            area = self.saliency(mask).mean((1, 2, 3))
        return {"total": sum(terms.values(), score), "score": score, **terms, "probability": p, "area": area}

    def logits(self, pictures: Tensor) -> Tensor:
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(pictures.device.type, torch.bfloat16) if bf16 else nullcontext():
            return self.classifier(pictures).float()

    @torch.no_grad()
    def probability(self, pictures: Tensor) -> Tensor:
        """(B,) of the targets; always in 32 bits, so that `precision` changes the search and not what is reported."""
        return probability(self.classifier(pictures).float(), self.targets)

    @torch.no_grad()
    def perturbed(self, parameter: Tensor) -> Tensor:
        """The photos under this mask as they are evaluated: no augment (B,3,H,W)."""
        return blend(self.levels(), self.mask(parameter))


class Search:
    """One search in progress: the parameter's optimizer, its history on the device, and snapshots of the mask.

    Both solvers drive it the same way: loss -> backward -> `before_step` -> optimizer step -> `after_step`.
    """

    def __init__(self, problem: Problem, frames: int = 24):
        self.problem, self.steps = problem, problem.recipe.steps
        self.parameter = torch.nn.Parameter(problem.start())
        self.optimizer = _made("optimizer", problem.recipe.optimizer, [self.parameter])
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer LBFGS couples the rows of a batch: choose one that works element by element")
        for group in self.optimizer.param_groups:
            if not 0 < group["lr"] < math.inf:
                raise ValueError(f"lr={group['lr']} must be a number above 0")
        if frames < 2:
            raise ValueError(f"frames={frames} must be at least 2, the first and the last")
        scheduler = problem.recipe.scheduler
        self.scheduler = scheduler and _made("scheduler", scheduler, self.optimizer)
        self.history: dict[str, Tensor] = {}  # term -> (steps,B), on the device: the loop never waits for it
        self.iterations = schedule(self.steps, frames)
        self.snapshots = [self.parameter.detach().clone()]
        self.done = 0  # iterations; fewer than steps where a callback stopped the search

    def loss(self, iteration: int) -> Tensor:
        terms = self.problem.loss(self.parameter, iteration)
        self._record(iteration, terms)
        return terms["total"].sum()  # rows are independent: a mean would make lr depend on the batch size

    def before_step(self, iteration: int) -> None:
        self._record(iteration, {"gradient": self.parameter.grad.flatten(1).norm(dim=1)})

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        self.problem.mask.project_(self.parameter)
        self.done = iteration + 1
        if self.done in self.iterations:
            self.snapshots.append(self.parameter.detach().clone())

    def finish(self) -> "Search":
        """Cuts the history to what was done and makes the result the last snapshot."""
        self.history = {name: values[: self.done] for name, values in self.history.items()}
        if self.done not in self.iterations:
            self.snapshots.append(self.parameter.detach().clone())
        self.iterations = [i for i in self.iterations if i < self.done] + [self.done]
        return self

    def _record(self, iteration: int, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            if name not in self.history:
                self.history[name] = torch.full((self.steps, len(value)), float("nan"), device=value.device)
            self.history[name][iteration] = value.detach()

    def failures(self) -> dict[int, str]:
        """Rows whose network output or gradient was not finite: row -> one sentence."""
        found = {}
        for what, term in (("gradient", "gradient"), ("output", "total")):  # the output comes first within an iteration
            finite = self.history[term].isfinite()
            for row in (~finite.all(0)).nonzero().flatten().tolist():
                first = int((~finite[:, row]).nonzero()[0])
                if row not in found or first <= found[row][0]:
                    found[row] = (first, what)
        return {
            row: f"{self.problem.names[row]}: the model's {what} is NaN or infinite at iteration {first}: "
            f"check the model's weights and the precision ({self.problem.recipe.precision})"
            for row, (first, what) in found.items()
        }


def _made(what: str, make: Callable, *arguments):
    try:
        return make(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what}: {str(error).splitlines()[0]}") from error


def schedule(steps: int, frames: int) -> list[int]:
    """At most `frames` iterations from 0 to `steps`, close together at first, when the mask changes most."""
    return sorted({round(steps ** (k / max(frames - 1, 1))) for k in range(1, frames)} | {0, steps})


def minimise(search: Search, on_step: Callable | None = None) -> Search:
    """The search without Lightning: the same arithmetic in the same order. `on_step(iteration)` is called after each."""
    for iteration in range(search.steps):
        search.optimizer.zero_grad()
        search.loss(iteration).backward()
        search.before_step(iteration)
        search.optimizer.step()
        search.after_step(iteration)
        if search.scheduler:
            search.scheduler.step()
        if on_step:
            on_step(iteration)
    return search.finish()
