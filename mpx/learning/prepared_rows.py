"""A batch of independent rows, prepared for a method: perturbed images, masks, random numbers, probabilities."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpx.augmentations import moves_pixels
from mpx.learning.compiled import Recording
from mpx.learning.method import Method
from mpx.masks.base import Mask, MaskContext, check_mask
from mpx.masks.evidence import evidence_of
from mpx.masks.grid import Grid
from mpx.models.classifier import Classifier
from mpx.operators import check_range, check_shape, describe, dotted_name
from mpx.perturbations.base import PerturbationContext, PreparedPerturbation, prepare
from mpx.randomness import RowRandom
from mpx.tasks.base import Answer

if TYPE_CHECKING:
    from typing_extensions import Self


class PreparedRows:
    """B rows of a method, ready to be evaluated under any mask.

    images: (B,C,H,W) in [0,1]; targets: (B,) indices; areas: (B,) requested shares of the image, or None; all on the
    classifier's device. The caller freezes the classifier. image_names serve error messages and explainers. places: (B,...)
    of the targets, as their task found them; None: it finds them again, from the indices.
    """

    def __init__(
        self,
        method: Method,
        classifier: Classifier,
        images: Tensor,
        targets: Tensor,
        image_names: list[str],
        areas: Tensor | None = None,
        places: Tensor | None = None,
    ):
        self.method = method
        self.classifier = classifier
        self.images = images
        self.targets = targets
        self.image_names = image_names
        self.areas = areas
        self.task = classifier.task
        self.passes = 0.0  # forward and backward of each row since `take_cost`
        self.forwards = 0.0  # forward alone
        self.recorded: Recording | None = None  # of the first iteration, with compile=true
        self.rng = RowRandom([method.seed] * len(images), images.device)
        with torch.no_grad():
            output = classifier(images).float()
            self.prepared_targets = self.task.prepare(targets, output, places=places)  # (B,) or (B,T)
            self.perturbation = self._prepare_perturbation()
            self.mask = self._make_mask()
            zeros = images.new_zeros(len(images), *self.perturbation.mask_shape)
            perturbed, reference = self.evaluate(zeros)
            check_range("perturbation", method.perturbation, perturbed)
            self.perturbed_is_finite = perturbed.isfinite().flatten(1).all(1)  # (B,)
            self.prepared_targets = self.task.prepare(targets, output, reference, places)
            self.original_logits = self.task.logits(output, self.prepared_targets)[0]  # (B,K)
            self.value_before, self.value_reference = (self._value(x) for x in (output, reference))
            self.support_before, self.support_reference = (self._support(x) for x in (output, reference))
            self.answers_before = self.top_answers(output)
            self._check_network_mask(zeros)

    def top_answers(self, output: Tensor) -> list[list[Answer]]:
        """Return the answers with the highest values in an output (B,...) for the rows, see `Task.top_answers`."""
        return self.task.top_answers(output, self.prepared_targets, self.classifier.categories)

    def _value(self, output: Tensor) -> Tensor:
        return self.task.value(output, self.prepared_targets)

    def _support(self, output: Tensor) -> Tensor:
        return self.task.support(output, self.prepared_targets)

    def _prepare_perturbation(self) -> PreparedPerturbation:
        method, rng = self.method, self.rng.at("setup")
        context = PerturbationContext(self.classifier, self.prepared_targets, rng)
        perturbation = prepare(method.perturbation, self.images, context)
        if method.explainer and not perturbation.masks_pixels:
            raise ValueError("an explainer's map is evaluated in pixels, and this perturbation masks none: choose another")
        if method.image_augmentations and not perturbation.masks_pixels:
            raise ValueError("this perturbation masks no pixels, so images cannot move under the mask: set jitter=0")
        return perturbation

    def _make_mask(self) -> Mask:
        kind = partial(Grid, mask_size=None) if self.method.explainer else self.method.mask
        mask = kind(MaskContext(self.perturbation.mask_shape, self.images, self.method.game, self.areas))
        if not isinstance(mask, Mask):
            raise ValueError(f"mask {dotted_name(kind)} is {describe(mask)}: it must be a class that derives from Mask")
        if max(view.mask_index for view in self.method.views) >= mask.count:
            raise ValueError("game=product needs a mask of two: mask=pair")
        return mask

    def _check_network_mask(self, mask: Tensor) -> None:
        """Refuse options that cannot work where the mask acts inside the network."""
        if not self.perturbation.network_inputs(self.perturbation.sample(self.rng.at("evaluation")), mask):
            return
        if self.method.compile:
            raise ValueError("compile=true: this perturbation patches the network while it runs: set compile=false")
        if any(map(moves_pixels, self.method.input_augmentations)):
            raise ValueError("this perturbation masks features inside the network, which are not mirrored: set flip=0")

    # ---- rows that move between batches

    @property
    def has_movable_rows(self) -> bool:
        """Whether rows of several batches can be gathered into one."""
        return self.perturbation.row_tensors is not None

    @classmethod
    def gather(cls, rows: "Sequence[tuple[Self, int]]") -> "Self":
        """Return one batch of rows (batch, index) of several, prepared as they are."""
        first = rows[0][0]
        gathered = copy.copy(first)
        gathered.image_names = [batch.image_names[i] for batch, i in rows]
        gathered.rng = RowRandom([batch.rng.seeds[i] for batch, i in rows], first.images.device)
        gathered.perturbation = first.perturbation.gathered([(batch.perturbation, i) for batch, i in rows])
        gathered.mask = first.mask.gathered([(batch.mask, i) for batch, i in rows])
        gathered.images = torch.stack([batch.images[i] for batch, i in rows])
        gathered.targets = torch.stack([batch.targets[i] for batch, i in rows])
        gathered.prepared_targets = torch.stack([batch.prepared_targets[i] for batch, i in rows])
        gathered.original_logits = torch.stack([batch.original_logits[i] for batch, i in rows])
        gathered.perturbed_is_finite = torch.stack([batch.perturbed_is_finite[i] for batch, i in rows])
        gathered.support_before = torch.stack([batch.support_before[i] for batch, i in rows])
        gathered.support_reference = torch.stack([batch.support_reference[i] for batch, i in rows])
        gathered.value_before = torch.stack([batch.value_before[i] for batch, i in rows])
        gathered.value_reference = torch.stack([batch.value_reference[i] for batch, i in rows])
        gathered.answers_before = [batch.answers_before[i] for batch, i in rows]
        areas = [batch.areas[i] for batch, i in rows if batch.areas is not None]
        gathered.areas = torch.stack(areas) if areas else None
        gathered.passes = gathered.forwards = 0.0
        gathered.recorded = None
        return gathered

    def count_images(self, images: int, with_gradient: bool) -> None:
        """Count images that went through the network for all rows alike, as passes or as forwards of each row."""
        if torch.compiler.is_compiling():  # mpx.learning.compiled counts
            return
        if with_gradient:
            self.passes += images / len(self.targets)
        else:
            self.forwards += images / len(self.targets)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the images that go through the classifier within this context, for code that does not count them itself."""

        def count(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            self.count_images(len(output), with_gradient=output.requires_grad and torch.is_grad_enabled())

        with self.classifier.register_forward_hook(count):
            yield

    def take_cost(self) -> tuple[float, float]:
        """Return the passes and forwards of each row since the last call."""
        cost = self.passes, self.forwards
        self.passes = self.forwards = 0.0
        return cost

    # ---- the initial parameter

    def initial(self) -> Tensor:
        """Return the initial parameter (B,*mask.shape)."""
        parameter = self.mask.initial(self.rng.at("start"))
        check_shape("mask", self.mask.initial, parameter, "(B,*self.shape)", (len(self.targets), *self.mask.shape))
        check_mask(self.mask, parameter, self.perturbation.mask_shape)
        if not self.mask.starts_from_disc:
            return parameter
        disc = self._smallest_disc(parameter)
        return 1 - disc if self.method.game == "preservation" else disc

    @torch.no_grad()
    def _smallest_disc(self, parameter: Tensor) -> Tensor:
        """Return each row's smallest disc that removes 99 % of the support (Fong & Vedaldi 2017, section 4.3).

        The disc is evaluated as the mask renders it. Where none suffices, the largest is taken, which covers the image.
        """
        goal = self.support_reference + 0.01 * (self.support_before - self.support_reference)
        sufficient = torch.zeros_like(goal, dtype=torch.bool)
        for radius in range(0, math.ceil(math.hypot(*self.images.shape[-2:])) + 5, 5):
            disc = self.mask.disc(radius).expand_as(parameter)
            parameter = torch.where(sufficient.view(-1, 1, 1, 1), parameter, disc)
            sufficient |= self._support(self.evaluate(self.mask(disc))[1]) <= goal
            self.count_images(len(self.targets), with_gradient=False)
            if sufficient.all() or not disc.any():
                break
        return parameter

    # ---- evaluation

    def evaluated_mask(self, parameter: Tensor) -> Tensor:
        """Return the mask (B,*mask_shape) that is evaluated: one draw of a random mask, whose mean may act differently."""
        return self.mask.sample(parameter, self.rng.at(("evaluation", "mask")))[0]

    @torch.no_grad()
    def evaluate(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the perturbed images (B,C,H,W) under a mask, without augmentation, and the network's output (B,...).

        Always in 32 bits: `precision` is of the optimization.
        """
        sample = self.perturbation.fixed_sample(self.rng.at("evaluation"))
        perturbed = self.perturbation.apply(sample, mask)
        with self.perturbation.patched_network(*self.perturbation.network_inputs(sample, mask)):
            return perturbed, self.classifier(perturbed).float()

    @torch.no_grad()
    def complement(self, mask: Tensor) -> tuple[Tensor | None, Tensor, list[list[Answer]]]:
        """Return the images (B,C,H,W) perturbed under 1 - mask, as `evaluate`, and the value (B,) and answers on them.

        None, NaN and no answers where masks act inside the network.
        """
        sample = self.perturbation.fixed_sample(self.rng.at("evaluation"))
        if self.perturbation.network_inputs(sample, 1 - mask):
            return None, torch.full_like(self.value_before, torch.nan), [[] for _ in self.image_names]
        images = self.perturbation.apply(sample, 1 - mask)
        output = self.classifier(images).float()
        return images, self._value(output), self.top_answers(output)

    def evidence(self, mask: Tensor) -> Tensor:
        """Return the evidence of a mask or of its cells: m in a preservation, else 1 - m."""
        return evidence_of(mask, self.method.game)
