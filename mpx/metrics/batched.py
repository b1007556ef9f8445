"""Many images of each row through the classifier, in a few full batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpx.errors import is_out_of_memory
from mpx.metrics.base import MetricContext


@torch.no_grad()
def class_probabilities(
    context: MetricContext, make_images: Callable[[Tensor, Tensor], Tensor], count: int, max_batch: int = 64
) -> Tensor:
    """Return (B,count): the probability of each row's class in `count` images of the row.

    make_images: rows (n,) and numbers (n,) of the rows' images -> images (n,C,H,W). max_batch: images per forward pass, of
    one row or several; halved where they do not fit into memory.
    """
    assert max_batch >= 1, "checked when the metric was built"
    targets = context.targets
    rows = torch.arange(len(targets), device=targets.device).repeat_interleave(count)
    numbers = torch.arange(count, device=targets.device).repeat(len(targets))
    values: list[Tensor] = []
    done = 0
    while done < len(rows):
        row, number = rows[done : done + max_batch], numbers[done : done + max_batch]
        try:
            values.append(context.support(make_images(row, number), row))
            done += len(row)
        except RuntimeError as error:
            if not is_out_of_memory(error) or max_batch == 1:
                raise
            max_batch = max(1, len(row) // 2)
    return torch.cat(values).view(len(targets), count)


def stack_probabilities(context: MetricContext, images: Tensor, max_batch: int = 64) -> Tensor:
    """Return (B,K): the probability of each row's class in its images (B,K,C,H,W)."""
    return class_probabilities(context, lambda row, number: images[row, number], images.shape[1], max_batch)
