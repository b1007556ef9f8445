"""How a row comes to rest before its steps are done.

A rule is asked every five iterations of a row (solver.search.CHECK_INTERVAL) and sees nothing but that row: `means`, the objective's
mean over each five so far, noise and all. It says what part of its step the optimizer takes from now on; 0: the row is over.
"""

import math


def settled(means: list[float], tolerance: float = 0.02, cuts: int = 13, power: float = 1.0) -> float:
    """Where a mean is not below the best by `tolerance` of what was gained, the step is cut; after `cuts` cuts it is over.

    After the k-th the rate is (1 - k/cuts)^power. A long step finds the evidence soon but dances around it; cut where it
    gets no further, it ends better than one that was short from the start. As torch's ReduceLROnPlateau, for each row by
    itself, along its PolynomialLR. After a cut the best counts anew.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"stop.tolerance={tolerance} must be from 0 and below 1")
    if cuts < 1 or not power > 0:
        raise ValueError(f"stop.cuts={cuts} must be at least 1 and stop.power={power} above 0")
    if not all(map(math.isfinite, means)):
        return 0.0  # it is lost
    best, done = math.inf, 0
    for mean in means:
        if best < math.inf and mean >= best - tolerance * max(0.0, means[0] - best):
            best, done = mean, done + 1
        else:
            best = mean
    return max(0.0, 1 - done / cuts) ** power
