"""mpx's side of a parity test: a preset on the small network, one photo, and what is compared."""

import numpy as np
import torch
from methods.reference import NETWORK, photos

from mpx import Classifier, config
from mpx.learning.batch import RowBatch
from mpx.learning.loop import optimize
from mpx.learning.objective import Objective

TARGET = 2


def problem(experiment: str, *overrides: str, photo: int = 0, area: float | None = None) -> Objective:
    """The preset's objective for one photo of 32 px; overrides as on the command line, for what does not fit 32 px."""
    classifier = Classifier(NETWORK)
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    x = torch.from_numpy(photos(photo + 1)[photo : photo + 1]).float()
    method = config.method(experiment, *overrides)
    area = area or method.areas[0]
    areas = None if area is None else torch.tensor([area])
    return Objective(method, classifier, x, torch.tensor([TARGET]), ["photo"], areas)


def value_and_gradient(p: Objective, parameter: np.ndarray, iteration: int = 0) -> tuple[float, np.ndarray]:
    """Of the objective at a parameter, given without the batch axis."""
    parameter = torch.from_numpy(parameter).float()[None].requires_grad_()
    total = p.terms(parameter, iteration)["total"]
    (g,) = torch.autograd.grad(total.sum(), parameter)
    return total.item(), g[0].double().numpy()


def trajectory(p: Objective) -> np.ndarray:
    """(steps+1, ...): the parameter before the first step and after each."""
    batch = RowBatch(p)
    parameters = [batch.parameter.detach()[0].double().numpy().copy()]
    optimize(batch, lambda _: parameters.append(batch.parameter.detach()[0].double().numpy().copy()))
    return np.stack(parameters)


def same(a, b, tolerance: float = 1e-5) -> None:
    """Equal relative to the size of the whole."""
    error = np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))
    assert error <= tolerance, error
