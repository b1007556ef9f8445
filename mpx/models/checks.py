"""Checks of a network before masks are learnt through it: shapes, finite logits and gradients, independent images."""

import torch
from torch import Tensor

from mpx.errors import first_line
from mpx.models.classifier import Classifier


def check_classifier(classifier: Classifier, images: Tensor) -> Tensor:
    """Run one forward and backward of the first of images (B,3,H,W) and return its logits (1, classes).

    Raises ValueError that says why no mask can be learnt through this network.
    """
    with classifier.frozen(), torch.enable_grad():
        image = images[:1].detach().to(classifier.device, copy=True).requires_grad_()
        logits = _logits(classifier, image)
        _check_gradient(classifier, image, logits)
        _check_logits(classifier, image.detach(), logits.detach())
    return logits.detach()


def _logits(classifier: Classifier, image: Tensor) -> Tensor:
    """Return logits (1, classes) of an image (1,3,H,W); refuse weights that are not float32, and a wrong input size."""
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
            f"model {classifier.name} fails for images of 3 colours and {image.shape[2]}x{image.shape[3]} px "
            f"({first_line(error)}): set the input size it was made for (model.size=, or the Classifier's preprocess)"
        ) from error


def _check_gradient(classifier: Classifier, image: Tensor, logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise ValueError(
            f"model {classifier.name} gives NaN or infinite logits for this image: check its weights, mean, std and "
            "precision"
        )
    # unequal weights of all logits: one logit alone may be constant, and so is a plain sum of probabilities
    weights = torch.linspace(1, 2, logits.shape[1], device=image.device, dtype=logits.dtype)
    grad = torch.autograd.grad(logits @ weights, image, allow_unused=True)[0] if logits.requires_grad else None
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
def _check_logits(classifier: Classifier, image: Tensor, logits: Tensor) -> None:
    """Refuse a single logit, probabilities, and logits that depend on the other images of the batch."""
    if logits.shape[1] < 2:
        raise ValueError(
            f"model {classifier.name} gives a single logit y, whose softmax is always 1: return two classes, "
            "torch.cat([torch.zeros_like(y), y], 1)"
        )
    random = torch.Generator().manual_seed(0)
    neighbour = torch.rand(image.shape, generator=random).to(image)
    try:
        pair = classifier(torch.cat([image, neighbour]))
    except (RuntimeError, AssertionError):  # the network takes one image at a time, or memory holds only one
        return
    if (pair >= 0).all() and (pair.sum(1) - 1).abs().max() < 1e-3:
        raise ValueError(
            f"model {classifier.name} gives probabilities, and mpx takes the softmax itself: remove the network's last "
            "softmax, or return the logarithm of its output"
        )
    tolerance = 1e-2 * logits.abs().max()
    depends_on_neighbour = (pair[:1] - logits).abs().max() > tolerance
    if depends_on_neighbour and (classifier(image) - logits).abs().max() <= tolerance:  # else the network is random
        raise ValueError(
            f"model {classifier.name} gives an image other logits when another image is in its batch, so masks would depend "
            "on each other: look for batch norms without running statistics (track_running_stats=False)"
        )
