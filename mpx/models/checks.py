"""Checks of a network before masks are learnt through it: finite outputs that repeat, gradients, independent images."""

import torch
from torch import Tensor, nn

from mpx.data.arrays import count_channels
from mpx.errors import is_out_of_memory, with_place
from mpx.models.classifier import Classifier
from mpx.models.synthetic import Synthetic

OUTPUT_TOLERANCE = 1e-2  # of the largest number of an output
REPEAT_TOLERANCE = 1e-3  # of the same, where the same image is asked twice
GRADIENT_TOLERANCE = 0.2  # of a gradient's norm: rounding changes less, a wrong backward about 1


def check_classifier(classifier: Classifier, images: Tensor, name: str = "this image") -> Tensor:
    """Run the first of images (B,C,H,W) alone and beside another, forward and backward; return its output (1,...).

    name: of the image. Raises ValueError that says why no mask can be learnt through this network.
    """
    with classifier.frozen(), torch.enable_grad():
        for other in classifier.compared:
            check_classifier(other, images, name)
        image = images[:1].detach().to(classifier.device, copy=True).requires_grad_()
        output = checked_output(classifier, image)
        _check_repeats(classifier, image, output)
        gradient = _check_gradient(classifier, image, output, name)
        _check_beside_another(classifier, image, output, gradient)
    return output.detach()


def checked_output(classifier: Classifier, image: Tensor) -> Tensor:
    """Return the output (1,...) for an image (1,C,H,W); refuse weights that are not float32, and a wrong input size.

    image: on the classifier's device.
    """
    weights = (parameter.dtype for parameter in classifier.network.parameters() if parameter.is_floating_point())
    dtype = next(weights, torch.float32)
    if dtype is not torch.float32:
        raise ValueError(
            f"model {classifier.name} has weights of {dtype}: convert it with float(); precision= sets what it computes in"
        )
    try:
        return classifier(image)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise ValueError(
                f"out of memory with one image of {image.shape[2]}x{image.shape[3]} px: a smaller model.size, or a smaller "
                "network, needs less"
            ) from error
        raise ValueError(
            f"model {classifier.name} fails for images of {count_channels(image.shape[1])} and "
            f"{image.shape[2]}x{image.shape[3]} px ({with_place(error)}): set the input size and the channels it was made "
            "for (model.size= and model.channels=, or the Classifier's preprocess and channels)"
        ) from error


def _check_repeats(classifier: Classifier, image: Tensor, output: Tensor) -> None:
    """Refuse a network that answers differently when it is asked again. output: (1,...) of the image (1,C,H,W)."""
    answers = [classifier.task.comparable(one).detach() for one in (output, classifier(image))]
    change, largest = (answers[1] - answers[0]).abs().max(), answers[0].abs().max()
    if change > REPEAT_TOLERANCE * largest:
        raise ValueError(
            f"model {classifier.name} gives another output when it is asked twice about an image (by {change / largest:.1%} "
            "of its largest number), so a mask would explain chance: look for noise in its forward, and for dropout that "
            "eval() leaves on, F.dropout(x) without training=self.training"
        )


def _check_gradient(classifier: Classifier, image: Tensor, output: Tensor, name: str) -> Tensor | None:
    """Return the gradient (1,C,H,W) of an output with its graph, or None where the output says nothing about the image."""
    if not output.isfinite().all():
        raise ValueError(
            f"model {classifier.name} gives a NaN or infinite output for {name}: check its weights, mean, std and "
            "precision"
        )
    if classifier.task.is_empty(output):  # the choice of targets says so, image by image
        return None
    gradient = _gradient(output, image)
    if gradient is None:
        raise ValueError(
            f"{classifier.name} is a model without gradient to its input, so no mask can be learnt: look for no_grad, "
            "detach, numpy or argmax inside its forward"
        )
    if not gradient.any():
        raise ValueError(_zero_gradient_sentence(classifier, name))
    if not gradient.isfinite().all():
        raise ValueError(
            f"the gradient of model {classifier.name} to its input is NaN or infinite: check its precision, and square "
            "roots or logarithms of 0"
        )
    return gradient


def _zero_gradient_sentence(classifier: Classifier, name: str) -> str:
    if isinstance(classifier, Synthetic):
        return f"model=synthetic finds none of its textures in {name}: explain dataset=synthetic with it"
    layers = [(key, layer) for key, layer in classifier.network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    zero = [key for key, layer in layers if not layer.weight.any()]
    reason = (
        f"the weights of {', '.join(zero)} are all zero, as they may be before training: load trained weights"
        if zero
        else "look for round, sign or a threshold inside its forward"
    )
    return f"the gradient of model {classifier.name} is zero at every pixel of {name}, so no mask can be learnt: {reason}"


def _gradient(output: Tensor, images: Tensor) -> Tensor | None:
    """Return the gradient (1,C,H,W) of the first output to the first of images, or None where it has none."""
    if not output.requires_grad:
        return None
    numbers = output[0].flatten()
    # unequal weights of all numbers: one alone may be constant, and so is a plain sum of probabilities
    weights = torch.linspace(1, 2, numbers.numel(), device=images.device, dtype=numbers.dtype)
    gradient = torch.autograd.grad(numbers @ weights, images, allow_unused=True, retain_graph=True)[0]
    return None if gradient is None else gradient[:1]


def _check_beside_another(classifier: Classifier, image: Tensor, output: Tensor, gradient: Tensor | None) -> None:
    """Refuse an output of another task, and an output or gradient that depends on the other images of the batch.

    image: (1,C,H,W), with the graph of its output; gradient: of this output.
    """
    random = torch.Generator().manual_seed(0)
    neighbour = torch.rand(image.shape, generator=random).to(image)
    images = torch.cat([image.detach(), neighbour]).requires_grad_()
    comparable = classifier.task.comparable
    pair, failure = None, None
    try:
        pair = classifier(images)
        gradient_beside = _gradient(comparable(pair), images)
    except (RuntimeError, AssertionError) as error:  # the network takes one image at a time, or memory holds only one
        failure = error
    classifier.task.check(output, pair, classifier.name)
    if pair is None:
        assert failure is not None
        if is_out_of_memory(failure):
            return
        raise ValueError(
            f"model {classifier.name} takes one image and fails for two at once ({with_place(failure)}), and mpx asks about "
            "several, also with batch_size=1: let its forward take images (B,C,H,W), or give a module that loops over them"
        ) from failure
    alone, beside = comparable(output).detach(), comparable(pair[:1]).detach()
    if (beside - alone).abs().max() > OUTPUT_TOLERANCE * alone.abs().max():
        _check_repeats(classifier, image, output)  # by chance it may have answered twice alike
        raise ValueError(
            f"model {classifier.name} gives an image another output when another image is in its batch, so masks would "
            "depend on each other: look for batch norms without running statistics (track_running_stats=False)"
        )
    if comparable(output) is not output:
        gradient = _gradient(comparable(output), image)
    difference = _difference(gradient, gradient_beside)
    if difference > GRADIENT_TOLERANCE:  # also the rounding of a photo's gradient that is zero: of similarity to itself
        images = images.detach().flip(0).requires_grad_()
        difference = _difference(*(_gradient(comparable(classifier(some)), images) for some in (images[:1], images)))
    if difference > GRADIENT_TOLERANCE:
        raise ValueError(
            f"model {classifier.name} has another gradient for an image alone than beside another image (they differ by "
            f"{difference:.0%}), so masks are wrong: torch's batch_norm has a wrong gradient for one "
            "image before a transposition; mpx avoids it in nn.BatchNorm2d and nn.InstanceNorm2d, so use these modules"
        )


def _difference(alone: Tensor | None, beside: Tensor | None) -> float:
    """Return by what share of its norm the gradient (1,C,H,W) of an image alone is not the one beside another image."""
    if alone is None or beside is None:
        return 0.0
    return ((beside - alone).norm() / alone.norm().clamp(min=1e-30)).item()
