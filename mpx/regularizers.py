"""What makes the evidence small and smooth.

A regularizer maps the saliency s (B,1,h,w) in [0,1] at the mask's own resolution (1-m in a deletion, m in a
preservation) to (B,), zero where nothing is marked. Its YAML owns its weight, `lambda_<name>` at the root of the config.
`reduction`: "mean" over cells, so that mask_size can be swept without changing the balance, or the papers' "sum".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSET = 0.0005


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
    return getattr(values.flatten(1), reduction)(1)


def l1(s: Tensor, reduction: str = "mean", power: float = 1.0, warmup: int = 0, iteration: Tensor | None = None) -> Tensor:
    """Area of the evidence, ||1-m||_1 of a deletion (Fong & Vedaldi 2017, equation 3).

    power: of each value, below 1 it favours few large ones (Dabkowski & Gal 2017's code: 0.3, shifted by OFFSET to keep its
    derivative finite at 0). warmup: the weight grows from 0 along a line over as many iterations (Chang et al. 2019: 30).
    """
    if warmup < 0 or not power > 0:
        raise ValueError(f"regularizers.l1: warmup={warmup} must be 0 or more iterations and power={power} above 0")
    s = s.abs() if power == 1 else (s.abs() + OFFSET) ** power - OFFSET**power
    value = _reduce(s, reduction)
    return value * (iteration.to(value) / warmup).clamp(max=1) if warmup else value


def border(s: Tensor, power: float = 2.0, reduction: str = "mean") -> Tensor:
    """s^power along the four edges, where a region is cut off without costing variation (Dabkowski & Gal 2017's code)."""
    edges = [s[..., :1, :], s[..., -1:, :], s[..., :1], s[..., -1:]]
    return _reduce(torch.cat([edge.flatten(1) for edge in edges], 1) ** power, reduction)


def tv(s: Tensor, beta: float = 3.0, isotropic: bool = True, reduction: str = "mean", cells: int | None = 28) -> Tensor:
    """Total variation sum |grad s|^beta by forward differences (Fong & Vedaldi 2017, equation 4).

    isotropic: (dx^2+dy^2)^(beta/2), as the authors' code; else |dx|^beta + |dy|^beta, as the predecessor's, whose mean is
    over the differences of each axis. cells: differences are per 1/cells of the image's side, so that the same mask costs
    the same at every mask_size (28 is the papers' grid; null: per cell, whatever its size).
    """
    if not beta > 0:
        raise ValueError(f"regularizers.tv.beta={beta} must be above 0")
    h, w = s.shape[-2:]
    dy, dx = s.diff(dim=-2) * (h / cells if cells else 1), s.diff(dim=-1) * (w / cells if cells else 1)
    if not isotropic:
        return sum(_reduce(d.abs() ** beta, reduction) for d in (dy, dx) if d.numel())
    square = F.pad(dy, (0, 0, 0, 1)) ** 2 + F.pad(dx, (0, 1)) ** 2  # zero after the last row and column
    flat = square == 0  # kept out of the power, whose derivative at 0 is infinite for beta < 2
    return _reduce(square.masked_fill(flat, 1) ** (beta / 2) * ~flat, reduction)


def area(
    s: Tensor, full: Tensor, framed: Tensor, inside: int, area: Tensor, iteration: Tensor,
    growth: float = 1.0035, correction: float = 8.0,
) -> Tensor:  # fmt: skip
    """mean (sort(m) - r_a)^2, r_a zeros but for a share of `area` ones (Fong, Patrick & Vedaldi 2019, equation 4).

    m is the evidence, with a frame around the image where the mask kind has one; `area` is a share of the image. The weight
    grows by `growth` at each iteration. Sorting is needless: the largest are to be 1 and the others 0; of values that are
    equal at the border, each is to be both in proportion.

    correction: soft edges would take the mean of a small mask up to a quarter beyond the area asked, and what lies in the
    frame is not seen. With r = mean of `full` / area, the share of ones is area * r^-correction, at least half and at most
    twice the area, once the mask is near it; from r = 2 on it is the area, as in the equation, and in between on the way.
    0: the equation.
    """
    m = framed.flatten(1)
    with torch.no_grad():
        r = full.mean((1, 2, 3)).clamp(min=1e-6) / area
        share = area * torch.maximum((r**-correction).clamp(0.5, 2), ((r - 0.5) / 1.5).clamp(max=1))
        ones = (inside * share).round().long().clamp(1, m.shape[1])[:, None]
        if m.is_cuda:  # twice the work, but nothing waits for the device to say how many
            border = m.sort(1, descending=True).values.gather(1, ones - 1)
        else:
            border = torch.stack([row.kthvalue(len(row) - n + 1).values for row, (n,) in zip(m, ones.tolist())])[:, None]
        above, level = m > border, m == border
        share = (ones - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)
        wanted = above + level * share  # to what extent each value is to be 1
    return (wanted * (1 - m) ** 2 + (1 - wanted) * m**2).mean(1) * growth ** iteration.to(m)


def bilateral_tv(
    s: Tensor, full: Tensor, photos: Tensor, sigma: float = 0.0226, reduction: str = "mean", cells: int | None = 28
) -> Tensor:
    """sum exp(-|grad I|^2 / sigma^2) |grad m|^2: the evidence may end where the photo has an edge (Khorram et al. 2021).

    m is the evidence at full size, I the photo, |grad I|^2 the mean over its colours, both by forward differences.
    sigma: in units of [0,1], of the difference between neighbouring pixels. cells: as in `tv`.
    """
    if full.shape[2:] != photos.shape[2:]:
        raise ValueError("regularizer=bilateral_tv follows the photo's edges, but this perturbation masks no pixels")
    if not sigma > 0:
        raise ValueError(f"regularizers.bilateral_tv.sigma={sigma} must be above 0")
    total = torch.zeros_like(full)
    for axis, pad in ((-2, (0, 0, 0, 1)), (-1, (0, 1))):
        slope = full.diff(dim=axis) * (full.shape[axis] / cells if cells else 1)
        flat = torch.exp(-photos.diff(dim=axis).square().mean(1, keepdim=True) / sigma**2)
        total = total + F.pad(flat * slope**2, pad)  # zero after the last row and column
    return _reduce(total, reduction)
