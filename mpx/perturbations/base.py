"""The contract of a perturbation, which replaces pixels where the mask is 0.

A perturbation is a function `(images (B,C,H,W) in [0,1], context: PerturbationContext, **options)`. It is called once per
batch, never per step, and returns one of

- the fully perturbed images (B,C,H,W) in [0,1],
- a pyramid (B,K,C,H,W) from fully to least perturbed; the image itself is appended as the last level,
- a function `rng -> (B,C,H,W)` that draws fully perturbed images anew at every evaluation, or
- a `PreparedPerturbation` of its own, where the mask acts on something other than pixels (features, tokens, wavelets).

`prepare` turns each of these into a `PreparedPerturbation`, the only thing that the objective knows.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mpx.models.classifier import Classifier
from mpx.operators import describe, dotted_name
from mpx.randomness import RowRandom


@dataclass(frozen=True)
class PerturbationContext:
    """What a perturbation may use besides the images of its B rows."""

    classifier: Classifier  # frozen
    targets: Tensor  # (B,) class indices
    rng: RowRandom  # draws of these B rows, before the first iteration


class PreparedPerturbation:
    """The images of B rows, ready to be perturbed under any mask (B,*mask_shape) in [0,1], where 1 keeps and 0 perturbs.

    row_tensors: names of the attributes that are tensors of B rows, or None where rows of several batches cannot be joined,
    because a row's state lies elsewhere too. A subclass inherits the names and extends them by its own.
    masks_pixels: whether the mask acts on the image's pixels, so that jitter, flips and mask shapes in pixels make sense.
    """

    row_tensors: ClassVar[tuple[str, ...] | None] = None
    masks_pixels: ClassVar[bool] = False
    mask_shape: tuple[int, ...]  # (C,h,w) of one row's mask
    images: Tensor  # (B,C,H,W) in [0,1]

    def sample(self, rng: RowRandom) -> Tensor | None:
        """Draw the random part of one evaluation; None where nothing is random."""
        return None

    def fixed_sample(self, rng: RowRandom) -> Tensor | None:
        """Draw the sample for evaluation and pictures; by default the same as `sample`."""
        return self.sample(rng)

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        """Return the images (B,C,H,W) that the network receives under a mask."""
        raise NotImplementedError

    def network_inputs(self, sample: Tensor | None, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors, each of B rows, that `patched_network` needs; empty where the network stays as it is."""
        return ()

    def patched_network(self, *inputs: Tensor) -> AbstractContextManager:
        """Return the context within which the network runs, patched by what `network_inputs` returned."""
        return nullcontext()

    def to_image(self, evidence: Tensor) -> Tensor:
        """Map evidence (B,*mask_shape) in [0,1] to a picture of it, (B,1,H,W) in [0,1]."""
        raise NotImplementedError

    @staticmethod
    def gathered(parts: Sequence[tuple["PreparedPerturbation", int]]) -> "PreparedPerturbation":
        """Return the perturbation whose k-th row is row `index` of `prepared`, the k-th pair (prepared, index) of `parts`.

        All are of one class, with equal options and with `row_tensors`. They stay as they are.
        """
        gathered = copy.copy(parts[0][0])
        assert gathered.row_tensors is not None, f"rows of {type(gathered).__name__} cannot be joined"
        for name in gathered.row_tensors:
            setattr(gathered, name, torch.stack([vars(part)[name][row] for part, row in parts]))
        return gathered


class PixelPerturbation(PreparedPerturbation):
    """Images blended, pixel by pixel, between the levels (B,K,C,H,W) of `sample`, from fully perturbed to the image."""

    masks_pixels = True

    def __init__(self, images: Tensor):
        self.images = images
        self.mask_shape = (1, *images.shape[2:])

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        assert sample is not None
        return blend(sample, mask)

    def to_image(self, evidence: Tensor) -> Tensor:
        return evidence


class FixedPixelPerturbation(PixelPerturbation):
    """Perturbed images (B,C,H,W), or a pyramid (B,K,C,H,W) of them, that stay as they are."""

    row_tensors = ("images", "levels")

    def __init__(self, images: Tensor, perturbed: Tensor):
        super().__init__(images)
        self.levels = with_image(perturbed, images)  # (B,K+1,C,H,W)

    def sample(self, rng: RowRandom) -> Tensor:
        return self.levels


class RandomPixelPerturbation(PixelPerturbation):
    """Perturbed images that `draw(rng)` draws anew at every evaluation."""

    def __init__(self, images: Tensor, draw: Callable[[RowRandom], Tensor]):
        super().__init__(images)
        self.draw = draw

    def sample(self, rng: RowRandom) -> Tensor:
        return with_image(_checked(self.draw, self.draw(rng), self.images), self.images)


def with_image(perturbed: Tensor, images: Tensor) -> Tensor:
    """Return the levels (B,K+1,C,H,W): perturbed images (B,C,H,W), or a pyramid (B,K,C,H,W), then the images."""
    pyramid = perturbed if perturbed.ndim == 5 else perturbed.unsqueeze(1)
    return torch.cat([pyramid, images.unsqueeze(1)], 1)


def blend(levels: Tensor, mask: Tensor) -> Tensor:
    """Return images (B,C,H,W) perturbed under a mask (B,1,H,W): linear interpolation between levels (B,K,C,H,W).

    The levels go from fully perturbed (mask 0) to the image (mask 1, which gives it exactly). Differentiable in the mask,
    also at 0 and 1 and, for a pyramid, in the amount of blur (Fong & Vedaldi 2017, equation 2's sigma).
    """
    if levels.shape[1] == 2:
        return _Lerp.apply(levels[:, 0], levels[:, 1], mask)
    position = mask * (levels.shape[1] - 1)
    below = position.detach().nan_to_num(0).long().clamp(0, levels.shape[1] - 2)  # (B,1,H,W); a NaN stays in its row
    index = below.unsqueeze(1).expand(-1, 1, *levels.shape[2:])  # (B,1,C,H,W)
    return _Lerp.apply(levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0], position - below)


class _Lerp(torch.autograd.Function):
    """torch.lerp of images (B,C,H,W) by a mask (B,1,H,W), whose gradient to the mask takes a third of the time.

    A network in channels_last gives a gradient in that order, and torch sums over channels slowly.
    """

    @staticmethod
    def forward(ctx: Any, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(start, end, weight)
        return torch.lerp(start, end, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        start, end, weight = ctx.saved_tensors

        def product(channel: int) -> Tensor:  # (B,H,W), in place: little memory stays in the processor's cache
            return (end[:, channel] - start[:, channel]).mul_(gradient[:, channel])

        of_weight = product(0)
        for channel in range(1, gradient.shape[1]):
            of_weight.add_(product(channel))
        of_weight = of_weight.unsqueeze(1).sum_to_size(weight.shape)
        needs_start, needs_end, _ = ctx.needs_input_grad
        return gradient * (1 - weight) if needs_start else None, gradient * weight if needs_end else None, of_weight


def prepare(perturbation: Callable, images: Tensor, context: PerturbationContext) -> PreparedPerturbation:
    """Call a perturbation on images (B,C,H,W) and return it prepared, whichever of the four kinds it returned."""
    result = perturbation(images, context)
    if isinstance(result, PreparedPerturbation):
        return result
    if callable(result) and not isinstance(result, Tensor):
        return RandomPixelPerturbation(images, result)
    return FixedPixelPerturbation(images, _checked(perturbation, result, images))


def _checked(perturbation: Callable, result: Any, images: Tensor) -> Tensor:
    """Return perturbed images, or raise ValueError where they have not the shape of the images or of a pyramid of them."""
    if not isinstance(result, Tensor) or result.shape != images.shape and (
        result.ndim != 5 or result[:, 0].shape != images.shape
    ):
        raise ValueError(
            f"perturbation {dotted_name(perturbation)} returned {describe(result)}: it must return (B,C,H,W) = "
            f"{tuple(images.shape)}, a pyramid (B,K,C,H,W), or a function that draws one of these"
        )
    return result


@torch.no_grad()
def fully_perturbed(perturbation: Callable, images: Tensor, context: PerturbationContext) -> Tensor:
    """Return the images (B,C,H,W) under a mask of zeros; the images themselves where the mask acts inside the network."""
    prepared = prepare(perturbation, images, context)
    sample = prepared.fixed_sample(context.rng.at("evaluation"))
    return prepared.apply(sample, images.new_zeros(len(images), *prepared.mask_shape))
