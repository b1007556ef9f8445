"""What makes the evidence small and smooth.

A regularizer maps the saliency s (B,1,h,w) in [0,1] at the mask's own resolution (1-m in a deletion, m in a
preservation) to (B,), zero where nothing is marked. Its YAML owns its weight, `lambda_<name>` at the root of the config.
`reduction`: "mean" over cells, so that mask_size can be swept without changing the balance, or the papers' "sum".
"""

import torch.nn.functional as F
from torch import Tensor


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
    return getattr(values.flatten(1), reduction)(1)


def l1(s: Tensor, reduction: str = "mean") -> Tensor:
    """Area of the evidence, ||1-m||_1 of a deletion (Fong & Vedaldi 2017, equation 3)."""
    return _reduce(s.abs(), reduction)


def tv(s: Tensor, beta: float = 3.0, isotropic: bool = True, reduction: str = "mean", cells: int | None = 28) -> Tensor:
    """Total variation sum |grad s|^beta by forward differences (Fong & Vedaldi 2017, equation 4).

    isotropic: (dx^2+dy^2)^(beta/2), as the authors' code; else |dx|^beta + |dy|^beta, as the predecessor's, whose mean is
    over the differences of each axis. cells: differences are per 1/cells of the image's side, so that the same mask costs
    the same at every mask_size (28 is the papers' grid; null: per cell, whatever its size).
    """
    h, w = s.shape[-2:]
    dy, dx = s.diff(dim=-2) * (h / cells if cells else 1), s.diff(dim=-1) * (w / cells if cells else 1)
    if not isotropic:
        return sum(_reduce(d.abs() ** beta, reduction) for d in (dy, dx) if d.numel())
    square = F.pad(dy, (0, 0, 0, 1)) ** 2 + F.pad(dx, (0, 1)) ** 2  # zero after the last row and column
    flat = square == 0  # kept out of the power, whose derivative at 0 is infinite for beta < 2
    return _reduce(square.masked_fill(flat, 1) ** (beta / 2) * ~flat, reduction)
