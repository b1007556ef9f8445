"""Whether a network rounds an image by its position in the batch, found by trial."""

from collections.abc import Sequence

import torch

from mpx.models.classifier import Classifier


def batch_position_matters(classifier: Classifier, shape: Sequence[int], batch_size: int, max_images: int = 128) -> bool:
    """Return whether the network rounds an image by its position in the batch, as a last layer of two classes may.

    Random images of `shape` (C,H,W) are tried in two positions each; gradients, which cost more, of the first few.
    """
    channels, *size = shape
    random = torch.Generator().manual_seed(0)
    for trial in range(max(4, max_images // batch_size) if batch_size > 1 else 0):
        blocks = torch.rand(batch_size, channels, 4, 4, generator=random) * torch.rand(batch_size, 1, 1, 1, generator=random)
        images = torch.nn.functional.interpolate(blocks, size).to(classifier.device)
        responses = [_response(classifier, images, shift, with_gradient=trial < 2) for shift in (0, 1)]
        if not all(map(torch.equal, *responses)):
            return True
    return False


def _response(classifier: Classifier, images: torch.Tensor, shift: int, with_gradient: bool) -> list[torch.Tensor]:
    """Return logits, and the input gradient, of images moved by `shift` positions, moved back."""
    with torch.set_grad_enabled(with_gradient):
        moved = images.roll(shift, 0).requires_grad_(with_gradient)
        logits = classifier(moved)
        response = [logits.detach().roll(-shift, 0)]
        if with_gradient:
            weights = torch.linspace(1, 2, logits[0].numel(), device=logits.device, dtype=logits.dtype)
            response.append(torch.autograd.grad((logits.flatten(1) @ weights).sum(), moved)[0].roll(-shift, 0))
    return response
