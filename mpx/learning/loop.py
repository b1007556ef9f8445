"""The plain loop: optimizes a batch without Lightning, with the same arithmetic in the same order."""

from collections.abc import Callable

from mpx.learning.batch import RowBatch


def optimize(batch: RowBatch, on_step: Callable[[int], None] | None = None) -> None:
    """Optimize a batch until it pauses.

    on_step: called with the iteration after each; where rows are at different iterations, with the latest.
    """
    optimizer, scheduler = batch.make_optimizer()
    while not batch.paused:
        batch.parameter.grad = None
        batch.terms()["total"].sum().backward()  # rows are independent: a mean would make lr depend on the batch size
        batch.before_step(optimizer)
        optimizer.step()
        if scheduler:
            scheduler.step()
        batch.after_step()
        if on_step:
            on_step(max(row.iteration for row in batch.rows) - 1)
    batch.finish()
