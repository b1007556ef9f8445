"""The objective  score(perturb(x, m)) + sum_k lambda_k R_k(saliency)  of a batch of independent rows.

A row is one image, one target and, where the method has them, one area. Everything stays (B,) per row; the solvers sum it
once (mpx.learning.search), so that each row's gradient is its own and a batch of B gives the masks of B single runs.
"""

import copy
import math
from functools import partial

import torch
from torch import Tensor

from mpx.augmentations import AugmentationContext, moves_pixels
from mpx.learning.gradients import SCALE, Part, Scaled
from mpx.learning.method import GAMES, TYPES, Method
from mpx.masks.base import Mask, MaskContext
from mpx.masks.grid import Grid
from mpx.perturbations.base import PerturbationContext, prepare
from mpx.randomness import RowRandom, key
from mpx.regularizers import RegularizerContext
from mpx.scores import ScoreContext, target_probability

PER_ROW = ("photos", "targets", "areas", "original", "p_before", "p_reference")  # of a Objective
PICTURES = 32  # through the network at once, where a row has several


class Objective:
    """A batch of rows prepared for the search: what is masked and how, the mask kind, the scores to compare with.

    photos: (B,3,H,W) in [0,1]; targets: (B,) class indices; areas: (B,) asked, or None; all on the classifier's device.
    `classifier` is frozen by the caller. `names` only serve error messages. `samples`: which of method.samples this process
    draws, None for all.
    """

    def __init__(
        self, method: Method, classifier, photos: Tensor, targets: Tensor, names: list[str], areas=None, samples=None
    ):
        self.samples = range(method.samples) if samples is None else samples
        self.method, self.classifier, self.photos, self.targets, self.names = method, classifier, photos, targets, names
        self.areas, self.spent = areas, {"passes": 0.0, "forwards": 0.0}  # of each row, since it was last read
        self.rng = draws(method.seed, photos, targets)
        self.views = [
            (k, c, w * (method.dual_weight if c and method.game == "dual" else 1)) for k, c, w in GAMES[method.game]
        ]
        self.path = method.gradient() if method.gradient else [1.0]
        with torch.no_grad():
            self.site = prepare(method.perturbation, photos, PerturbationContext(classifier, targets, self.rng))
            if method.explainer and not self.site.masks_pixels:
                raise ValueError("an explainer is judged by pixels, and this perturbation masks none: choose another")
            if method.image_augmentations and not self.site.masks_pixels:
                raise ValueError("this perturbation masks no pixels, so nothing can move under the mask: jitter=0")
            shape = self.site.mask_shape
            kind = partial(Grid, mask_size=None) if method.explainer else method.mask
            self.mask: Mask = kind(MaskContext(shape, photos, method.game, areas))
            if max(which for which, *_ in self.views) >= self.mask.count:
                raise ValueError("game=product needs a mask of two: mask=pair")
            self.original = classifier(photos).float()
            self.p_before = target_probability(self.original, targets)
            nothing = photos.new_zeros(len(photos), *shape)
            self.p_reference = self.judge(nothing)[1]
            within = self.site.network_inputs(self._still(), nothing)
            if within and method.compile:
                raise ValueError("compile=true: this perturbation masks what is inside the network: leave it out")
            if within and any(map(moves_pixels, method.input_augmentations)):
                raise ValueError("this perturbation masks what is inside the network, where nothing is mirrored: flip=0")

    @property
    def movable(self) -> bool:
        """Whether rows of several problems can be one problem, see mpx.perturbations.base."""
        return self.site.row_tensors is not None

    @staticmethod
    def of(rows: list[tuple["Objective", int]]) -> "Objective":
        """One problem of rows of several, prepared as they are."""
        problem = copy.copy(rows[0][0])
        problem.site = problem.site.gathered([(p.site, row) for p, row in rows])
        problem.mask = Mask.gathered([(p.mask, row) for p, row in rows])
        problem.names = [p.names[row] for p, row in rows]
        problem.rng = RowRandom([p.rng.seeds[row] for p, row in rows], problem.photos.device)
        problem.spent = dict.fromkeys(problem.spent, 0.0)
        for name in PER_ROW:
            values = [vars(p)[name] for p, _ in rows]
            stacked = None if values[0] is None else torch.stack([v[row] for v, (_, row) in zip(values, rows)])
            setattr(problem, name, stacked)
        return problem

    def start(self) -> Tensor:
        """Initial parameter (B,*mask.shape)."""
        parameter = self.mask.initial(self.rng.at("start"))
        if not self.mask.starts_from_disc:
            return parameter
        disc = self._smallest_disc(parameter)
        return 1 - disc if self.method.game == "preservation" else disc

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
            found |= self.judge(self.mask(disc))[1] <= goal
            self.spent["forwards"] += 1
            if found.all():
                break
        return parameter

    def evidence(self, mask: Tensor) -> Tensor:
        """What a deletion takes away, what a preservation keeps. Works on cells as on masks."""
        return mask if self.method.game == "preservation" else 1 - mask

    def loss(self, parameter: Tensor, iteration: int | list[int], exact: bool = False) -> dict[str, Tensor]:
        """Every term (B,) at this iteration's random draws: "total" and its parts, and the target's "probability".

        iteration: of all rows, or each row's.

        The score is the mean over method.gradient's path, whose gradient is the integrated one, under the augments; `exact`:
        the mask's own score, without either, as it is evaluated.
        """
        padded = self.mask.padded(parameter)
        mask = self.mask.crop(padded)
        score, p = self._score(parameter, mask, iteration, exact)
        full = self.evidence(mask)
        cells = self.evidence(self.mask.cells(parameter))
        context = RegularizerContext(
            evidence=full,
            padded_evidence=full if padded is mask else self.evidence(padded),
            inside=self.mask.inside(padded),
            parameter=parameter,
            images=self.photos,
            areas=self.areas,
            iteration=self._counts(iteration),
            perturbation=self.site,
        )
        terms = {k: weight * term(cells, context) for k, (weight, term) in self.method.regularizers.items()}
        with torch.no_grad():
            area = self.site.to_image(full).mean((1, 2, 3))
        return {"total": sum(terms.values(), score), "score": score, **terms, "probability": p, "area": area}

    def _counts(self, iteration: int | list[int]) -> Tensor:
        """(B,) on the device, without waiting for it."""
        if isinstance(iteration, int):
            return torch.full_like(self.targets, iteration)
        counts = torch.tensor(iteration)
        return (
            counts.pin_memory().to(self.targets.device, non_blocking=True)
            if self.targets.is_cuda
            else counts.to(self.targets.device)
        )

    def _score(self, parameter: Tensor, mask: Tensor, iteration: int | list[int], exact: bool) -> tuple[Tensor, Tensor]:
        """Mean score over the random samples and the path, mean probability of the target at the path's end, (B,) each."""
        path = [1.0] if exact else self.path
        draws = [(s * len(path) + k, point) for s in self.samples for k, point in enumerate(path)]
        most = max(1, PICTURES // (len(self.views) * len(self.targets)))
        parts = [draws[k : k + most] for k in range(0, len(draws), most)]
        if len(parts) == 1:
            score, p = self._sums(parameter, mask, iteration, parts[0], exact)
        else:
            found = [
                Part.apply(lambda x, part=part: self._sums(x, None, iteration, part, exact), parameter) for part in parts
            ]
            score, p = (sum(values) for values in zip(*found))
        return score / len(draws), p / len(self.samples)

    def _sums(
        self, parameter: Tensor, mask: Tensor | None, iteration: int, draws: list, exact: bool
    ) -> tuple[Tensor, Tensor]:
        method, pictures, inner = self.method, [], []
        image_augmentations, input_augmentations = ([], []) if exact else (method.image_augmentations, method.input_augmentations)
        random, counts = self.mask.is_random or self.mask.count > 1, self._counts(iteration)

        def at(what: str):
            return [(i, what) for i in iteration] if isinstance(iteration, list) else (iteration, what)

        if not random:
            masks = [self.mask(parameter) if mask is None else mask]
        for number, point in draws:
            if random:
                masks = self.mask.sample(parameter, self.rng.at(at("mask"), number))
            drawn = self.site.sample(self.rng.at(iteration, number))
            context = AugmentationContext(self.rng.at(at("augment"), number), counts)
            for augment in image_augmentations:
                drawn = augment(drawn.flatten(1, 2), context).view_as(drawn)
            for which, complement, _ in self.views:
                seen = masks[which] if point == 1 else masks[which] * point
                seen = 1 - seen if complement else seen
                picture = self.site.apply(drawn, seen)
                for augment in input_augmentations:
                    picture = augment(picture, context)
                pictures.append(picture)
                inner.append(self.site.network_inputs(drawn, seen))
        half, within = TYPES[method.precision] is torch.float16, (torch.cat(parts) for parts in zip(*inner))
        with self.site.patched_network(*(Scaled.apply(x, 1 / SCALE) if half else x for x in within)):
            logits = self.logits(torch.cat(pictures) if len(pictures) > 1 else pictures[0])
        self.spent["passes" if logits.requires_grad else "forwards"] += len(pictures)
        logits = logits.view(len(draws), len(self.views), len(self.targets), -1)
        target, original = self.targets.repeat(len(draws)), self.original.repeat(len(draws), 1)
        score = sum(
            weight
            * method.score(logits[:, v].flatten(0, 1), target, ScoreContext(original, math.copysign(1, weight)))
            .view(len(draws), -1)
            .sum(0)
            for v, (*_, weight) in enumerate(self.views)
        )
        with torch.no_grad():
            ends = torch.tensor([point == 1 for _, point in draws], device=logits.device)
            p = (target_probability(logits[:, 0].flatten(0, 1), target).view(len(draws), -1) * ends[:, None]).sum(0)
        return score, p

    def logits(self, pictures: Tensor) -> Tensor:
        kind = TYPES[self.method.precision]
        network = self.classifier.compiled() if self.method.compile else self.classifier
        if kind is None:
            return network(pictures).float()
        scale = SCALE if kind is torch.float16 else 1.0
        with torch.autocast(pictures.device.type, kind):
            return Scaled.apply(network(Scaled.apply(pictures, 1 / scale)).float(), scale)

    def shown(self, parameter: Tensor) -> Tensor:
        """The mask (B,*shape) that is judged: of a random one a draw, for their mean may look otherwise to the network."""
        return self.mask.sample(parameter, self.rng.at(("evaluation", "mask")))[0]

    @torch.no_grad()
    def judge(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures under a mask (B,*shape) as they are evaluated, without augment, and the targets' probabilities (B,).

        Always in 32 bits, so that `precision` changes the search and not what is reported.
        """
        sample = self._still()
        pictures = self.site.apply(sample, mask)
        with self.site.patched_network(*self.site.network_inputs(sample, mask)):
            return pictures, target_probability(self.classifier(pictures).float(), self.targets)

    @torch.no_grad()
    def opposite(self, mask: Tensor) -> Tensor | None:
        """The pictures (B,3,H,W) under 1-mask, drawn as `judge` draws them; None where the mask acts inside the network."""
        sample = self._still()
        inside = self.site.network_inputs(sample, 1 - mask)
        return None if inside else self.site.apply(sample, 1 - mask)

    def _still(self):
        return self.site.fixed_sample(self.rng.at("evaluation"))


def draws(seed: int, photos: Tensor, targets: Tensor) -> RowRandom:
    """The random numbers of rows, by what they are of: photos (B,3,H,W), targets (B,)."""
    pixels = (photos.detach().cpu() * 255).round().byte().numpy()
    return RowRandom([key(seed, p.tobytes(), t) for p, t in zip(pixels, targets.tolist())], photos.device)
