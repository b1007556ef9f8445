"""In the place of a search: the saliency that an explainer gives at once, judged as a mask of one cell per pixel is.

So a baseline (mpx.explainers) goes through the same batches, pictures, tables and metrics as a mask that was learnt.
"""

import torch

from mpx.explainers.base import ExplainerContext, to_saliency
from mpx.learning.search import RowState


class Attribution:
    """As `Search` after its last step; what went through the classifier is counted as `passes` and `forwards` of a row."""

    over = True

    def __init__(self, problem, rows: int):
        self.problem = problem
        counting = problem.classifier.register_forward_hook(self._count)
        try:
            context = ExplainerContext(problem.rng, problem.names)
            relevance = problem.method.explainer(problem.photos, problem.classifier, problem.targets, context)
        finally:
            counting.remove()
        found = problem.evidence(to_saliency(relevance.detach().float().nan_to_num(0))).split(1)[:rows]
        sound = relevance.flatten(1).isfinite().all(1).tolist()
        self.seats = [RowState(problem, i, p, [0], [p], over=True, sound=ok) for i, (p, ok) in enumerate(zip(found, sound))]
        for seat in self.seats:
            seat.spend(problem)

    def _count(self, module, given, logits) -> None:
        kind = "passes" if logits.requires_grad and torch.is_grad_enabled() else "forwards"
        self.problem.spent[kind] += len(logits) / len(self.problem.targets)
