"""Checks of a network before masks are learnt through it: shapes, finite logits and gradients, independent images."""

import torch
from torch import Tensor

from mpx.data.arrays import count_channels
from mpx.errors import first_line
from mpx.models.classifier import Classifier


def check_classifier(classifier: Classifier, images: Tensor) -> Tensor:
    """Run one forward and backward of the first of images (B,C,H,W) and return its output (1,...).

    Raises ValueError that says why no mask can be learnt through this network.
    """
    with classifier.frozen(), torch.enable_grad():
        for other in classifier.compared:
            check_classifier(other, images)
        image = images[:1].detach().to(classifier.device, copy=True).requires_grad_()
        output = _output(classifier, image)
        _check_gradient(classifier, image, output)
        _check_output(classifier, image.detach(), output)
    return output.detach()


def _output(classifier: Classifier, image: Tensor) -> Tensor:
    """Return the output (1,...) for an image (1,C,H,W); refuse weights that are not float32, and a wrong input size."""
    weights = (parameter.dtype for parameter in classifier.network.parameters() if parameter.is_floating_point())
    dtype = next(weights, torch.float32)
    if dtype is not torch.float32:
        raise ValueError(
            f"model {classifier.name} has weights of {dtype}: convert it with float(); precision= sets what it computes in"
        )
    try:
        return classifier(image)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"model {classifier.name} fails for images of {count_channels(image.shape[1])} and "
            f"{image.shape[2]}x{image.shape[3]} px ({first_line(error)}): set the input size and the channels it was made "
            "for (model.size= and model.channels=, or the Classifier's preprocess and channels)"
        ) from error


def _check_gradient(classifier: Classifier, image: Tensor, output: Tensor) -> None:
    if not output.isfinite().all():
        raise ValueError(
            f"model {classifier.name} gives a NaN or infinite output for this image: check its weights, mean, std and "
            "precision"
        )
    if classifier.task.is_empty(output):  # the choice of targets says so, image by image
        return
    # unequal weights of all numbers: one alone may be constant, and so is a plain sum of probabilities
    weights = torch.linspace(1, 2, output[0].numel(), device=image.device, dtype=output.dtype)
    weighted = output.flatten(1) @ weights
    grad = torch.autograd.grad(weighted, image, allow_unused=True, retain_graph=True)[0] if output.requires_grad else None
    if grad is None or not grad.any():
        raise ValueError(
            f"{classifier.name} is a model without gradient to its input, so no mask can be learnt: look for no_grad, "
            "detach, numpy or argmax inside its forward"
        )
    if not grad.isfinite().all():
        raise ValueError(
            f"the gradient of model {classifier.name} to its input is NaN or infinite: check its precision, and square "
            "roots or logarithms of 0"
        )


@torch.no_grad()
def _check_output(classifier: Classifier, image: Tensor, output: Tensor) -> None:
    """Refuse an output of another task, and one that depends on the other images of the batch."""
    random = torch.Generator().manual_seed(0)
    neighbour = torch.rand(image.shape, generator=random).to(image)
    try:
        pair = classifier(torch.cat([image, neighbour]))
    except (RuntimeError, AssertionError):  # the network takes one image at a time, or memory holds only one
        pair = None
    classifier.task.check(output, pair, classifier.name)
    if pair is None:
        return
    alone, beside, repeated = (classifier.task.comparable(x) for x in (output, pair[:1], classifier(image)))
    tolerance = 1e-2 * alone.abs().max()
    depends_on_neighbour = (beside - alone).abs().max() > tolerance
    if depends_on_neighbour and (repeated - alone).abs().max() <= tolerance:  # else the network is random
        raise ValueError(
            f"model {classifier.name} gives an image another output when another image is in its batch, so masks would "
            "depend on each other: look for batch norms without running statistics (track_running_stats=False)"
        )
