"""Captum's attribution convention over explain()."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpx.api import explain
from mpx.models.classifier import Classifier

TOLERANCE = 0.1  # distance by which images may leave [0,1], because metrics add noise to their inputs


class MeaningfulPerturbation:
    """`MeaningfulPerturbation(model).attribute(inputs, target=...)`.

    model: as in `mpx.explain`. mean, std: of the normalisation, where inputs are normalised: it is undone for
    explain(), and applied again before the model. options: the options of `mpx.explain`.
    """

    def __init__(
        self, model: nn.Module, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0, **options: Any
    ):
        self.classifier = model if isinstance(model, Classifier) else Classifier(model, mean, std)
        self.mean = torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.options = options

    def attribute(self, inputs: Tensor | tuple[Tensor, ...], target: Any = None) -> Any:
        """Return the saliency (B,1,H,W) in [0,1] of inputs (B,C,H,W), or a tuple for a tuple, as Captum's metrics pass.

        target: None for the top class, an index, or one index for each input. Images up to 0.1 outside [0,1] are clipped.
        Where a metric needs the shape of the inputs (captum.metrics.infidelity), use `.expand_as(inputs)`.
        """
        if isinstance(inputs, tuple):
            return tuple(self.attribute(x, target) for x in inputs)
        images = inputs.detach() * self.std.to(inputs) + self.mean.to(inputs)
        clipped = images.clamp(0, 1)
        images = clipped if (images - clipped).abs().max() <= TOLERANCE else images  # explain() refuses larger deviations
        if isinstance(target, (list, tuple, Tensor, np.ndarray)):
            target = torch.as_tensor(target).reshape(-1)
            target = target.expand(len(images)) if len(target) == 1 else target
        return explain(self.classifier, images, target, **self.options).saliency.to(inputs)
