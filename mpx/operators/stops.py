"""How a row comes to rest before its steps are done.

A rule is asked every five iterations of a row (solver.search.ASKED) and sees nothing but that row: `means`, the objective's
mean over each five so far, noise and all. It says what part of its step the optimizer takes from now on; 0: the row is over.
"""

import math


def settled(means: list[float], tolerance: float = 0.02, factor: float = 0.6, cuts: int = 7) -> float:
    """Where a mean is not below the best by `tolerance` of what was gained, the step is cut by `factor`; over after `cuts`.

    A long step finds the evidence soon but dances around it; cut when it gets no further, it ends as one that was short from
    the start. As torch's ReduceLROnPlateau, for each row by itself. After a cut the best counts anew.
    """
    if not 0 <= tolerance < 1 or not 0 < factor < 1:
        raise ValueError(f"stop.tolerance={tolerance} must be from 0 and stop.factor={factor} above 0, both below 1")
    if cuts < 1:
        raise ValueError(f"stop.cuts={cuts} must be at least 1")
    best, done = math.inf, 0
    for mean in means:
        if best < math.inf and mean >= best - tolerance * max(0.0, means[0] - best):
            best, done = mean, done + 1
        else:
            best = mean
    return factor**done if done < cuts else 0.0
