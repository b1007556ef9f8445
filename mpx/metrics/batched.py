"""Asking the classifier about many pictures of each row, in a few full batches; and what a removed pixel becomes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


@torch.no_grad()
def ask(classifier, make: Callable[[Tensor, Tensor], Tensor], targets: Tensor, count: int, pictures: int = 64) -> Tensor:
    """(B,count) softmax probability of each row's class in `count` pictures of it.

    make: rows (n,), which of the row's pictures (n,) -> (n,3,H,W); pictures: most of one batch, whose rows may differ;
    halved where they do not fit into memory.
    """
    if not pictures >= 1:
        raise ValueError(f"pictures={pictures} must be 1 or larger: it is the most that one pass of the network is given")
    row = torch.arange(len(targets), device=targets.device).repeat_interleave(count)
    which = torch.arange(count, device=targets.device).repeat(len(targets))
    found, done = [], 0
    while done < len(row):
        r, k = row[done : done + pictures], which[done : done + pictures]
        try:
            found.append(classifier(make(r, k)).float().softmax(1).gather(1, targets[r, None])[:, 0])
            done += len(r)
        except RuntimeError as error:
            if not out_of_memory(error) or pictures == 1:
                raise
            pictures = max(1, len(r) // 2)
    return torch.cat(found).view(len(targets), count)


def out_of_memory(error: RuntimeError) -> bool:
    """torch has a class of error for CUDA only."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )


def ask_stack(classifier, stack: Tensor, targets: Tensor, pictures: int = 64) -> Tensor:
    """The same of pictures at hand: (B,K,3,H,W) -> (B,K)."""
    return ask(classifier, lambda row, which: stack[row, which], targets, stack.shape[1], pictures)


def mean_color(classifier) -> Tensor:
    """(1,3,1,1) in [0,1]: the colour that normalising turns into 0."""
    if not hasattr(classifier, "shift"):
        raise ValueError(
            f"fill=mean is the mean colour that a classifier normalises with, and {type(classifier).__name__} has none: "
            "wrap it in mpx's Classifier, or give fill= a number in [0,1], photo or blur"
        )
    return -classifier.shift / classifier.scale


def filled(images: Tensor, classifier, fill: str | float, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    """What the images (B,3,H,W) become where all is removed: the same shape."""
    if fill == "mean":
        return mean_color(classifier).to(images).expand_as(images)
    if fill == "photo":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if fill == "blur":
        return _blur(images, mean_color(classifier).to(images), sigma, kernel_size)
    if isinstance(fill, (int, float)) and not isinstance(fill, bool) and 0 <= fill <= 1:
        return torch.full_like(images, fill)
    raise ValueError(f"fill={fill!r} must be mean, photo, blur or a number in [0,1]")


def _blur(images: Tensor, beyond: Tensor, sigma: float, kernel_size: int) -> Tensor:
    """As RISE's code: the Gaussian's tails are folded back into the kernel, and beyond the edges all is the mean colour."""
    if kernel_size % 2 == 0 or kernel_size < 1 or not sigma > 0:
        raise ValueError(f"sigma={sigma}, kernel_size={kernel_size}: a blur needs sigma above 0 and an odd kernel")
    dirac = torch.zeros(kernel_size, dtype=torch.float64)
    dirac[kernel_size // 2] = 1
    line = torch.from_numpy(gaussian_filter1d(dirac.numpy(), sigma)).to(images)
    x = (images - beyond).flatten(0, 1)[:, None]
    x = F.conv2d(F.conv2d(x, line.view(1, 1, 1, -1), padding="same"), line.view(1, 1, -1, 1), padding="same")
    return x.view_as(images) + beyond
