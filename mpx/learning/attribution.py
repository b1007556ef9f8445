"""An explainer in the place of an optimization: its saliency is evaluated like a mask of one cell per pixel.

So a baseline (mpx.explainers) goes through the same batches, pictures, tables and metrics as a learnt mask.
"""

import time

from mpx.explainers.base import ExplainerContext, to_saliency
from mpx.learning.objective import Objective
from mpx.learning.rows import RowState
from mpx.operators import check_shape


class Attribution:
    """The finished rows of an explainer. Images that go through the classifier are counted as passes and forwards."""

    finished = True

    def __init__(self, objective: Objective, row_count: int):
        assert objective.method.explainer is not None
        self.objective = objective
        started = time.time()
        with objective.counting():
            context = ExplainerContext(objective.rng.at("setup"), objective.image_names)
            relevance = objective.method.explainer(
                objective.images, objective.classifier, objective.prepared_targets, context
            )
        expected = (len(objective.targets), 1, *objective.images.shape[2:])
        check_shape("explainer", objective.method.explainer, relevance, "(B,1,H,W)", expected)
        masks = objective.evidence(to_saliency(relevance.detach().float().nan_to_num(0))).split(1)[:row_count]
        is_finite = relevance.flatten(1).isfinite().all(1).tolist()
        self.rows = [
            RowState(objective, i, mask, [0], [mask], mask, finished=True, is_finite=is_finite[i], started=started)
            for i, mask in enumerate(masks)
        ]
        cost = objective.take_cost()
        for row in self.rows:
            row.add_cost(*cost)
