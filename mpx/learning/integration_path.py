"""Along which path the score's gradient is taken.

A path is a function to the points in (0,1] by which the mask is multiplied, from near all perturbed (0) to the mask (1).
Where the network sees the complement, it comes from the photo instead: that is 1 - point * mask (Khorram et al. 2021).
The score is the mean over them, so its gradient is the integrated one; the target's probability is told at 1.
"""


def integrated(ig_steps: int = 20) -> list[float]:
    """k/ig_steps for k = 1, ..., ig_steps: the straight path (Qi, Khorram & Li 2020, equation 6)."""
    if ig_steps < 1:
        raise ValueError(f"gradient.ig_steps={ig_steps} must be at least 1")
    return [k / ig_steps for k in range(1, ig_steps + 1)]
