"""The objective  score(network(perturb(x, m))) + sum_k lambda_k R_k(saliency)  of a batch of independent rows.

Every quantity stays (B,) per row. The solvers sum it once, so that each row's gradient is its own and a batch of B rows
gives the masks of B single runs.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mpx.augmentations import AugmentationContext
from mpx.devices import to_device
from mpx.learning.compiled import RandomNumbers, compiled_terms
from mpx.learning.gradients import SCALE, PartialSum, ScaledGradient
from mpx.learning.method import PRECISIONS
from mpx.learning.prepared_rows import PreparedRows
from mpx.operators import check_shape, dotted_name
from mpx.randomness import RowRandom
from mpx.regularizers import RegularizerContext
from mpx.scores import ScoreContext
from mpx.tasks.base import repeat_rows

MAX_IMAGES = 32  # in one pass of the network, where a row has several: bounds the memory of many draws
Iterations = int | list[int]  # the iteration of all rows, or of each row


class Draw(NamedTuple):
    """One random draw of an evaluation, at one point of the integration path."""

    number: int  # keys the random numbers; another one for each sample and point of the path
    point: float  # in (0,1], by which the mask is multiplied


class Objective(PreparedRows):
    """The terms of the objective of B rows, at random draws that depend on nothing but the row and its iteration."""

    _samples: Sequence[int] | None = None  # the draws of this process; None: all

    @property
    def samples(self) -> Sequence[int]:
        """The numbers of the random draws that this process averages."""
        return range(self.method.samples) if self._samples is None else self._samples

    @property
    def integration_path(self) -> Sequence[float]:
        """The points in (0,1] by which the mask is multiplied; the score is the mean over them."""
        return self.method.gradient() if self.method.gradient else (1.0,)

    def share_samples(self, rank: int, ranks: int) -> None:
        """Keep one rank's part of the random samples."""
        self._samples = samples_of_rank(self.method.samples, rank, ranks)

    def terms(self, parameter: Tensor, iteration: Iterations, exact: bool = False) -> dict[str, Tensor]:
        """Return every term (B,) at an iteration's random draws: "total", its parts, "value" and "area".

        The score is the mean over the integration path, whose gradient is the integrated one, under the augmentations. With
        `exact` it is the mask's own score without either, as masks are evaluated.
        """
        counts, numbers = self._per_row(iteration), partial(self._random_numbers, iteration)
        if self.method.compile and not exact:
            return compiled_terms(self, parameter, counts, numbers)
        return self.terms_of_numbers(parameter, counts, numbers, exact)

    def _random_numbers(self, iteration: Iterations, purpose: str, number: int) -> RowRandom:
        """Return the random numbers of a draw for a purpose; an empty one: the perturbation."""
        if not purpose:
            return self.rng.at(iteration, number)
        moment = [(i, purpose) for i in iteration] if isinstance(iteration, list) else (iteration, purpose)
        return self.rng.at(moment, number)

    def terms_of_numbers(
        self, parameter: Tensor, counts: Tensor, numbers: RandomNumbers, exact: bool = False
    ) -> dict[str, Tensor]:
        """Return the terms at these random numbers. counts: (B,) iterations done, of each row."""
        padded = self.mask.padded(parameter)
        mask = self.mask.crop(padded)
        score, value = self._score(parameter, mask, counts, numbers, exact)
        evidence = self.evidence(mask)
        context = RegularizerContext(
            evidence=evidence,
            padded_evidence=evidence if padded is mask else self.evidence(padded),
            inside=self.mask.inside(padded),
            parameter=parameter,
            images=self.images,
            areas=self.areas,
            iteration=counts,
            perturbation=self.perturbation,
        )
        cells = self.evidence(self.mask.cells(parameter))
        weighted = {}
        for name, (weight, term) in self.method.regularizers.items():
            values = term(cells, context)
            check_shape("regularizer", term, values, "(B,)", (len(cells),))
            weighted[name] = weight * values
        with torch.no_grad():
            area = self.perturbation.to_image(evidence).mean((1, 2, 3))
        total = sum(weighted.values(), score)
        return {"total": total, "score": score, **weighted, "value": value, "area": area}

    def _per_row(self, iteration: Iterations) -> Tensor:
        """Return the iteration of each row, (B,), on the device."""
        if isinstance(iteration, int):
            return torch.full_like(self.targets, iteration)
        return to_device(torch.tensor(iteration), self.targets.device)

    def _score(
        self, parameter: Tensor, mask: Tensor, counts: Tensor, numbers: RandomNumbers, exact: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (B,) each: the mean score over the draws, and the mean of the target's value at the path's end."""
        path = (1.0,) if exact else self.integration_path
        draws = [Draw(s * len(path) + k, point) for s in self.samples for k, point in enumerate(path)]
        draws_per_pass = max(1, MAX_IMAGES // (len(self.method.views) * len(self.targets)))
        parts = [draws[k : k + draws_per_pass] for k in range(0, len(draws), draws_per_pass)]
        if len(parts) == 1:
            score, value = self._score_of_draws(parameter, mask, counts, numbers, parts[0], exact)
        else:  # each part renders the mask again, so that its gradient can be taken at once
            sums = [
                PartialSum.apply(lambda x, part=part: self._score_of_draws(x, None, counts, numbers, part, exact), parameter)
                for part in parts
            ]
            score, value = (sum(values) for values in zip(*sums))
        return score / len(draws), value / len(self.samples)  # a sample's value counts at the path's end

    def _score_of_draws(
        self,
        parameter: Tensor,
        mask: Tensor | None,
        counts: Tensor,
        numbers: RandomNumbers,
        draws: list[Draw],
        exact: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return (B,) each: the sum of the score over these draws, and that of the value at the path's end."""
        inputs, patch_inputs = self._network_inputs(parameter, mask, counts, numbers, draws, exact)
        with self.perturbation.patched_network(*patch_inputs):
            output = self.output(inputs)
        self.count_images(len(inputs), with_gradient=output.requires_grad)
        output = output.view(len(draws), len(self.method.views), len(self.targets), *output.shape[1:])
        targets = repeat_rows(self.prepared_targets, len(draws))
        original = repeat_rows(self.original_logits, len(draws))
        scores = []
        for v, view in enumerate(self.method.views):
            logits, answers = self.task.logits(output[:, v].flatten(0, 1), targets)
            context = ScoreContext(original, math.copysign(1, view.weight))
            values = self.method.score(logits, answers, context)
            check_shape("score", self.method.score, values, "(B,)", (len(targets),))
            if logits.requires_grad and not values.requires_grad:
                raise ValueError(
                    f"score {dotted_name(self.method.score)} has no gradient to the logits, so no mask can be learnt: look "
                    "for detach, argmax, comparisons or numpy inside it"
                )
            scores.append(view.weight * values.view(len(draws), -1).sum(0))
        with torch.no_grad():
            values = self.task.value(output[:, 0].flatten(0, 1), targets).view(len(draws), -1)
            ends = [values[k] for k, draw in enumerate(draws) if draw.point == 1]
            value = torch.stack(ends).sum(0) if ends else torch.zeros_like(values[0])
            finite = output.isfinite().reshape(*output.shape[:3], -1).all(-1).all(0).all(0)  # (B,)
            value = value.where(finite, torch.nan)  # so that a failed row names the network also where its value is finite
        return sum(scores[1:], scores[0]), value

    def _network_inputs(
        self,
        parameter: Tensor,
        mask: Tensor | None,
        counts: Tensor,
        numbers: RandomNumbers,
        draws: list[Draw],
        exact: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the network's inputs (draws*views*B,C,H,W), and those of `patched_network`."""
        method = self.method
        draws_masks = self.mask.is_random or self.mask.count > 1
        masks = [] if draws_masks else [self.mask(parameter) if mask is None else mask]
        inputs: list[Tensor] = []
        patch_inputs: list[tuple[Tensor, ...]] = []
        for draw in draws:
            if draws_masks:
                masks = self.mask.sample(parameter, numbers("mask", draw.number))
            sample = self.perturbation.sample(numbers("", draw.number))
            context = AugmentationContext(numbers("augment", draw.number), counts)
            if sample is not None and not exact:  # levels become channels, so that all of a row's move alike
                for augment in method.image_augmentations:
                    sample = _augmented(augment, sample.flatten(1, 2), context).view_as(sample)
            for view in method.views:
                view_mask = masks[view.mask_index] if draw.point == 1 else masks[view.mask_index] * draw.point
                view_mask = 1 - view_mask if view.complement else view_mask
                x = self.perturbation.apply(sample, view_mask)
                for augment in () if exact else method.input_augmentations:
                    x = _augmented(augment, x, context)
                inputs.append(x)
                patch_inputs.append(self.perturbation.network_inputs(sample, view_mask))
        joined = [torch.cat(parts) for parts in zip(*patch_inputs)]
        if PRECISIONS[method.precision] is torch.float16:
            joined = [ScaledGradient.apply(x, 1 / SCALE) for x in joined]
        return torch.cat(inputs) if len(inputs) > 1 else inputs[0], joined

    def output(self, images: Tensor) -> Tensor:
        """Return the network's output (N,...) float32 for images (N,C,H,W), computed in the method's precision."""
        dtype = PRECISIONS[self.method.precision]
        if dtype is None:
            return self.classifier(images).float()
        scale = SCALE if dtype is torch.float16 else 1.0
        with torch.autocast(images.device.type, dtype):
            return ScaledGradient.apply(self.classifier(ScaledGradient.apply(images, 1 / scale)).float(), scale)


def _augmented(augment: Callable, x: Tensor, context: AugmentationContext) -> Tensor:
    augmented = augment(x, context)
    check_shape("augmentation", augment, augmented, "(B,C,H,W)", tuple(x.shape))
    return augmented


def samples_of_rank(samples: int, rank: int, ranks: int) -> range:
    """Return one rank's part of random samples; each rank has as many, so that the mean of the ranks' means is the mean."""
    if samples % ranks:
        raise ValueError(f"samples={samples} cannot be divided among {ranks} devices: set samples= to a multiple of {ranks}")
    return range(rank, samples, ranks)
