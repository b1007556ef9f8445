"""In the place of a search: the saliency that an explainer gives at once, judged as a mask of one cell per pixel is.

So a baseline (mpx.explainers) goes through the same batches, pictures, tables and metrics as a mask that was learnt.
"""

import torch

from mpx.explainers import to_saliency
from mpx.operators import offer


class Attribution:
    """As `Search` after its last step; what went through the classifier is counted as `passes` and `forwards` of a row."""

    def __init__(self, problem):
        self.problem, self.history, self.iterations = problem, {}, [0]
        counting = problem.classifier.register_forward_hook(self._count)
        try:
            relevance = offer(
                problem.recipe.explainer,
                problem.photos,
                classifier=problem.classifier,
                targets=problem.targets,
                rng=problem.rng,
                names=problem.names,
            )
        finally:
            counting.remove()
        self.sound = relevance.flatten(1).isfinite().all(1)
        self.snapshots = [problem.evidence(to_saliency(relevance.detach().float().nan_to_num(0)))]

    def _count(self, module, given, logits) -> None:
        kind = "passes" if logits.requires_grad and torch.is_grad_enabled() else "forwards"
        self.problem.spent[kind] += len(logits) / len(self.problem.targets)

    def failures(self) -> dict[int, str]:
        """Rows whose relevance was not finite: row -> one sentence."""
        return {
            row: f"{self.problem.names[row]}: the explainer gives NaN or infinite values: check the model's weights"
            for row in (~self.sound).nonzero().flatten().tolist()
        }
