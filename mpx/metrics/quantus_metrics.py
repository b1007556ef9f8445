"""The metrics of Quantus (Hedström et al. 2023), by their names. Quantus is GPL-3.0: the user installs it, mpx does not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpx.errors import first_line, near
from mpx.metrics.base import MetricContext, metric
from mpx.tasks.classification import Classification

PLAIN = {"return_aggregate": False, "disable_warnings": True, "display_progressbar": False}


@metric(needs=("explain",), notes={"direction": "of the metric in Quantus, score_direction"}, package=("quantus",) * 2)
def quantus(
    saliency: Tensor, context: MetricContext, name: str = "FaithfulnessCorrelation",
    options: Mapping[str, Any] | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Return the values (B,) of one of Quantus' metrics.

    name: of its class, e.g. "FaithfulnessCorrelation" or "Sparseness". options: of the class; its own defaults hold for the
    others. seed: of NumPy's random numbers and of explanations. Metrics that compare with a region take the annotations, if
    there are any.
    """
    if not isinstance(context.task, Classification):
        raise ValueError("metric quantus needs a network that chooses one class (task=classification): leave it out")
    module = _module()
    kinds = {key: kind for key, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, module.Metric)}
    if name not in kinds:
        raise ValueError(f"metrics.quantus.name={name!r} is not a metric of Quantus{near(name, kinds)}")
    network = _Network(context).eval()

    def explain(model: Any, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        images = torch.as_tensor(np.asarray(inputs), dtype=saliency.dtype, device=saliency.device)
        with torch.enable_grad():
            maps = context.explain(context.classifier, images.clamp(0, 1), context.targets[: len(images)], seed)
        return maps.detach().cpu().numpy()

    regions = [annotation.mask() if annotation else None for annotation in context.annotations]
    known = regions and all(region is not None for region in regions)
    try:
        evaluate = kinds[name](**PLAIN | dict(options or {}))
        with _seeded(seed):
            values = evaluate(
                model=network, x_batch=_array(context.images), y_batch=_array(context.targets), a_batch=_array(saliency),
                s_batch=np.stack([np.asarray(region)[None] for region in regions]) if known else None,
                explain_func=explain, device=str(saliency.device), channel_first=True,
            )  # fmt: skip
    except Exception as error:  # each of its metrics has errors of its own
        raise ValueError(f"metric quantus, {name}: {type(error).__name__}: {first_line(error)}") from error
    try:
        numbers = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        numbers = np.empty(0, np.float32)
    if numbers.shape != (len(saliency),):
        raise ValueError(f"metric quantus: {name} returns no number for each row: choose another, e.g. Sparseness")
    return torch.from_numpy(numbers)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().copy()  # some of its metrics write into what they are given


def _module() -> ModuleType:
    """Import Quantus; the name of this module's metric hides it inside the package."""
    try:
        import quantus as module
    except ImportError:
        raise ValueError("metric=quantus needs a package that is not installed: pip install quantus") from None
    return module


class _Network(nn.Module):
    """A classifier as Quantus calls it: images (N,C,H,W) in [0,1] to logits (N,K)."""

    def __init__(self, context: MetricContext):
        super().__init__()
        self.context = context

    def forward(self, images: Tensor) -> Tensor:
        return self.context.classifier(images.clamp(0, 1)).float()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global random numbers, which Quantus draws from, and restore them."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
