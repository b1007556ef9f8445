"""A scene to test metrics on: photos for SquareNet, whose evidence is its square."""

import numpy as np
import torch
from planted import SquareNet, square_photo

from mpx.data.annotations import Annotation, Region
from mpx.data.preprocessing import Preprocess
from mpx.metrics.base import MetricContext, as_metric
from mpx.metrics.summary import SummaryContext
from mpx.models.classifier import Classifier
from mpx.perturbations.blur import gaussian_blur

SIDE, BOX = 32, (16, 8, 24, 16)  # the square, (x0,y0,x1,y1)


def classifier() -> Classifier:
    result = Classifier(SquareNet(), mean=0.5, std=0.25).eval()
    return result.requires_grad_(False)


def photos(count: int = 2) -> torch.Tensor:
    return torch.stack([square_photo(SquareNet(), seed) for seed in range(count)])


def targets(count: int = 2) -> torch.Tensor:
    return torch.ones(count, dtype=torch.long)


def context(count: int = 2, **parts) -> MetricContext:
    """Of the first photos; parts replace what the scene has."""
    return MetricContext(**{"classifier": classifier(), "images": photos(count), "targets": targets(count)} | parts)


def columns(metric, saliency, context) -> dict[str, np.ndarray]:
    return {suffix: values.cpu().numpy() for suffix, values in as_metric(metric)(saliency, context).items()}


def summary(metric, saliency, context) -> dict:
    """Of rows of as many images."""
    rows = SummaryContext(context.targets.numpy(), np.arange(len(saliency)))
    return as_metric(metric).summarise(columns(metric, saliency, context), rows)


def annotation(*boxes, size=(SIDE, SIDE), preprocess=None, **region) -> Annotation:
    return Annotation(Region(boxes or (BOX,), **region), size, preprocess or Preprocess((SIDE, SIDE)))


def square(value: float = 1.0) -> torch.Tensor:
    """(1,1,H,W) the evidence."""
    map = torch.zeros(1, 1, SIDE, SIDE)
    map[..., BOX[1] : BOX[3], BOX[0] : BOX[2]] = value
    return map


def random_maps(count: int = 2, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def perturbations() -> dict:
    return {
        "blur": lambda x: gaussian_blur(x, 3.0),
        "mean": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
        "noise": lambda x: torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(1)).expand_as(x),
    }
