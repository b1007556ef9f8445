"""Rules by which a row stops before its last step.

A rule is checked every five iterations of a row (mpx.learning.continuous.CHECK_INTERVAL) and sees only that row: `means`,
the mean of its noisy objective over each five iterations so far. It returns the scale of the row's steps from now on; at
0 the row has finished.
"""

import math


def settled(means: list[float], tolerance: float = 0.02, cuts: int = 13, power: float = 1.0) -> float:
    """Cut the step where a mean does not fall below the best by `tolerance` of the gain so far; finish after `cuts` cuts.

    After the k-th cut the scale is (1 - k/cuts)^power. A long step finds the evidence early and then oscillates; shortened
    where it stops improving, it ends better than a step that was short from the start. This is torch's ReduceLROnPlateau
    along its PolynomialLR, for each row by itself. After a cut the best mean is taken anew.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"stop.tolerance={tolerance} must be from 0 and below 1")
    if cuts < 1 or not power > 0:
        raise ValueError(f"stop.cuts={cuts} must be at least 1 and stop.power={power} above 0")
    if not all(map(math.isfinite, means)):
        return 0.0  # the row has failed
    best, cut_count = math.inf, 0
    for mean in means:
        improves = best == math.inf or mean < best - tolerance * max(0.0, means[0] - best)
        cut_count += not improves
        best = mean  # also after a cut, where the best mean is taken anew
    return max(0.0, 1 - cut_count / cuts) ** power
