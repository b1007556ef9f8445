"""Captum's attribution convention over explain(): with Captum's metrics, NoiseTunnel and visualisation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mpx.api import explain
from mpx.masks.superpixels import Segments
from mpx.models.classifier import Classifier
from mpx.operators import describe
from mpx.perturbations.base import PerturbationContext

if TYPE_CHECKING:
    Attribution = object
else:
    try:
        from captum.attr import Attribution
    except ImportError:  # the same class without it
        Attribution = object

TOLERANCE = 0.1  # distance by which images may leave [0,1], because metrics add noise to their inputs


def _tensors_from_arrays(attribute: Callable) -> Callable:
    """Let a method take arrays of NumPy, and return one for them; NoiseTunnel needs a decorated method, too."""

    @wraps(attribute)
    def wrapper(self: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if isinstance(inputs, np.ndarray):
            return attribute(self, torch.from_numpy(inputs).float(), *args, **options).numpy()
        return attribute(self, inputs, *args, **options)

    return wrapper


class MeaningfulPerturbation(Attribution):
    """`MeaningfulPerturbation(model).attribute(inputs, target=...)`; a `captum.attr.Attribution` where Captum is installed.

    model: as in `mpx.explain`. mean, std: of the normalisation, where inputs are normalised: it is undone for
    explain(), and applied again before the model. clip: whether images far outside [0,1] are clipped and not refused, as
    NoiseTunnel needs. options: the options of `mpx.explain`.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        clip: bool = False,
        **options: Any,
    ):
        if not isinstance(model, nn.Module):
            raise ValueError(f"model={model!r} must be a torch.nn.Module, which can be frozen, and not a function of it")
        self.forward_func = model
        self.classifier = model if isinstance(model, Classifier) else Classifier(model, mean, std)
        self._normalisation = (mean, std)
        self.mean = torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.clip = clip
        self.options = options

    @_tensors_from_arrays
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        baselines: Tensor | float | tuple | None = None,
        feature_mask: Tensor | tuple | None = None,
    ) -> Any:
        """Return the saliency (B,1,H,W) in [0,1] of inputs (B,C,H,W), or a tuple for a tuple, as Captum's metrics pass.

        Each input of a tuple is explained by itself: the network takes one.

        target: None for the top class, an index, or one index for each input. additional_forward_args: further arguments of
        the model, one or a tuple; tensors (B,...) have a row for each input. baselines: what the inputs are perturbed with,
        a number or (C,H,W), (1,C,H,W) or (B,C,H,W), normalised as the inputs. feature_mask: (H,W), (1,1,H,W) or (B,1,H,W)
        integers, one cell of the mask for each. Of both also a tuple with one for each input.

        Images up to 0.1 outside [0,1] are clipped, with `clip` all. Where a metric needs the shape of the inputs
        (captum.metrics.infidelity), use `.expand_as(inputs)`. Raises ValueError, one sentence, for other shapes.
        """
        all_inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        fills, masks = (_per_input(name, x, len(all_inputs)) for name, x in
                        (("baselines", baselines), ("feature_mask", feature_mask)))  # fmt: skip
        if isinstance(inputs, tuple):
            parts = zip(inputs, fills, masks, strict=True)
            return tuple(self.attribute(x, target, additional_forward_args, fill, mask) for x, fill, mask in parts)
        (baselines,), (segments,) = fills, masks
        images = self._unit_range(inputs.detach())
        arguments = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
        arguments = () if additional_forward_args is None else arguments
        if isinstance(target, (list, tuple, Tensor, np.ndarray)):
            target = torch.as_tensor(target).reshape(-1)
            target = target.expand(len(images)) if len(target) == 1 else target
        fill = None if baselines is None else self._fill(baselines, images)
        labels = None if segments is None else _labels(segments, images)
        given = (images, target, fill, labels, *arguments)
        if len(images) == 1 or not any(_is_per_row(x, len(images)) for x in given[2:]):
            return self._explain(*given).to(inputs)
        rows = [[x[i : i + 1] if _is_per_row(x, len(images)) else x for x in given] for i in range(len(images))]
        return torch.cat([self._explain(*row) for row in rows]).to(inputs)

    def _explain(
        self, images: Tensor, target: Any, fill: Tensor | None, labels: Tensor | None, *arguments: Any
    ) -> Tensor:
        options = dict(self.options)
        if fill is not None:
            options["perturbation"] = partial(_filled, fill=fill)
        if labels is not None:
            options["mask"] = partial(Segments, labels=labels, count=int(labels.max()) + 1)
        model = self.classifier
        if arguments:
            if model is self.forward_func:
                raise ValueError("additional_forward_args= need the bare network, with mean= and std=, not a Classifier")
            model = Classifier(_WithArguments(self.forward_func, arguments), *self._normalisation)
        return explain(model, images, target, **{"progress": False} | options).saliency

    def _unit_range(self, inputs: Tensor) -> Tensor:
        """Undo the normalisation, and clip what is allowed to be clipped; explain() refuses larger deviations."""
        images = inputs * self.std.to(inputs) + self.mean.to(inputs)
        clipped = images.clamp(0, 1)
        return clipped if self.clip or (images - clipped).abs().max() <= TOLERANCE else images

    def _fill(self, baselines: Any, images: Tensor) -> Tensor:
        """Return the images (1 or B,C,H,W) in [0,1] that the inputs are perturbed with."""
        fill = torch.as_tensor(baselines, dtype=images.dtype, device=images.device)
        fill = self._unit_range(fill.expand(images.shape[1:]) if fill.ndim == 0 else fill)
        fill = fill if fill.ndim == images.ndim else fill.unsqueeze(0)
        if fill.shape[1:] != images.shape[1:] or len(fill) not in (1, len(images)):
            raise ValueError(
                f"baselines of shape {describe(fill)} must be a number, or an image or {len(images)} of the inputs' shape "
                f"{tuple(images.shape[1:])}"
            )
        return fill


def quantus_explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    options: Mapping[str, Any] | None = None,
    **_: Any,
) -> np.ndarray:
    """Return the saliency (B,1,H,W) of inputs (B,C,H,W), an array, for Quantus' `explain_func=`.

    options: those of `mpx.explain`, e.g. explain_func_kwargs={"options": {"steps": 30}}. mean, std: see
    `MeaningfulPerturbation`. What else Quantus passes (a device) has no effect.
    """
    attribution = MeaningfulPerturbation(model, mean, std, clip=True, **(options or {}))
    return attribution.attribute(np.asarray(inputs), target=np.asarray(targets))


class _WithArguments(nn.Module):
    """A network with its other arguments bound; tensors of one row are repeated for every image."""

    def __init__(self, network: nn.Module, arguments: tuple):
        super().__init__()
        self.network = network
        self.arguments = arguments

    def forward(self, images: Tensor) -> Any:
        given = (
            x.to(images.device).expand(len(images), *x.shape[1:]) if isinstance(x, Tensor) and x.ndim and len(x) == 1 else x
            for x in self.arguments
        )
        return self.network(images, *given)


def _per_input(name: str, value: Any, count: int) -> tuple:
    """Return an argument for each input: the parts of a tuple, or one value for all."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        raise ValueError(f"{name}= has {len(value)} parts for {count} inputs: give one for each, or one for all")
    return value


def _is_per_row(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _filled(images: Tensor, context: PerturbationContext, fill: Tensor) -> Tensor:
    return fill.to(images).expand_as(images)


def _labels(feature_mask: Tensor, images: Tensor) -> Tensor:
    """Return the index (1 or B,H,W) of each pixel's segment, from 0 and without gaps."""
    labels = torch.as_tensor(feature_mask)
    labels = labels[:, 0] if labels.ndim == 4 and labels.shape[1] == 1 else labels
    labels = labels.unsqueeze(0) if labels.ndim == 2 else labels
    if labels.is_floating_point() or labels.shape[1:] != images.shape[2:] or len(labels) not in (1, len(images)):
        raise ValueError(
            f"feature_mask {describe(feature_mask)} must be integers (H,W), (1,1,H,W) or (B,1,H,W) with the inputs' (H,W), "
            f"{tuple(images.shape[2:])}"
        )
    return labels.unique(return_inverse=True)[1]
