"""Regularizers: terms of the objective that make the evidence small and smooth.

A regularizer is a function `(evidence (B,1,h,w) in [0,1], context: RegularizerContext, **options) -> (B,)`, zero on the
mask that does nothing, with a finite derivative, also at 0 and 1. The evidence is 1-m of the mask's own cells, or m in a
preservation.
The YAML of a regularizer owns its weight, `lambda_<name>` at the root of the config.
`reduction`: "mean" over cells, so that mask_size can be swept without changing the balance, or the papers' "sum".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.devices import is_accelerator
from mpx.operators import needs_area
from mpx.perturbations.base import PreparedPerturbation
from mpx.perturbations.features import Bottleneck
from mpx.perturbations.wavelets import Wavelets

OFFSET = 0.0005  # keeps the derivative of l1 with power < 1 finite at 0


@dataclass(frozen=True)
class RegularizerContext:
    """What a regularizer may use besides the evidence of its B rows."""

    evidence: Tensor  # (B,*mask_shape) in [0,1], at full size
    padded_evidence: Tensor  # `evidence` with the frame of masks that reach beyond the image
    inside: int  # how many of one row's padded values lie in the image
    parameter: Tensor  # (B,*shape) of the mask
    images: Tensor  # (B,C,H,W) in [0,1]
    areas: Tensor | None  # (B,) the area requested for each row, a share of the image; None without area=
    iteration: Tensor  # (B,) iterations done, of each row
    perturbation: PreparedPerturbation


def l1(
    evidence: Tensor, context: RegularizerContext, reduction: str = "mean", power: float = 1.0, warmup: int = 0
) -> Tensor:
    """Area of the evidence, ||1-m||_1 of a deletion (Fong & Vedaldi 2017, equation 3).

    power: of each value; below 1 it favours few large values (Dabkowski & Gal 2017's code: 0.3, shifted by OFFSET).
    warmup: iterations over which the weight grows linearly from 0 (Chang et al. 2019: 30).
    """
    if warmup < 0 or not power > 0:
        raise ValueError(f"regularizers.l1: warmup={warmup} must be 0 or more iterations and power={power} above 0")
    values = evidence.abs() if power == 1 else (evidence.abs() + OFFSET) ** power - OFFSET**power
    total = _reduce(values, reduction)
    return total * (context.iteration.to(total) / warmup).clamp(max=1) if warmup else total


def border(evidence: Tensor, context: RegularizerContext, power: float = 2.0, reduction: str = "mean") -> Tensor:
    """evidence^power along the four edges, where a region ends without costing variation (Dabkowski & Gal 2017's code)."""
    edges = [evidence[..., :1, :], evidence[..., -1:, :], evidence[..., :1], evidence[..., -1:]]
    return _reduce(torch.cat([edge.flatten(1) for edge in edges], 1) ** power, reduction)


def tv(
    evidence: Tensor,
    context: RegularizerContext,
    beta: float = 3.0,
    isotropic: bool = True,
    reduction: str = "mean",
    cells: int | None = 28,
) -> Tensor:
    """Total variation sum |grad s|^beta by forward differences (Fong & Vedaldi 2017, equation 4).

    isotropic: (dx^2+dy^2)^(beta/2), as the authors' code; otherwise |dx|^beta + |dy|^beta, as in
    jacobgil/pytorch-explain-black-box, whose mean is over the differences of each axis.
    cells: differences are per 1/cells of the image's side, so that the same mask costs the same at every mask_size (28 is
    the papers' grid); None for differences per cell.
    """
    if not beta > 0:
        raise ValueError(f"regularizers.tv.beta={beta} must be above 0")
    h, w = evidence.shape[-2:]
    dy, dx = evidence.diff(dim=-2) * (h / cells if cells else 1), evidence.diff(dim=-1) * (w / cells if cells else 1)
    if not isotropic:
        variations = [_reduce(d.abs() ** beta, reduction) for d in (dy, dx) if d.numel()]
        return sum(variations, evidence.new_zeros(len(evidence)))
    square = F.pad(dy, (0, 0, 0, 1)) ** 2 + F.pad(dx, (0, 1)) ** 2  # zero after the last row and column
    is_flat = square == 0  # excluded from the power, whose derivative at 0 is infinite for beta < 2
    return _reduce(square.masked_fill(is_flat, 1) ** (beta / 2) * ~is_flat, reduction)


@needs_area
def area(evidence: Tensor, context: RegularizerContext, growth: float = 1.0035, correction: float = 8.0) -> Tensor:
    """mean (sort(m) - r_a)^2, r_a zeros but for a share of `area` ones (Fong, Patrick & Vedaldi 2019, equation 4).

    m is the evidence, with a frame around the image where the mask has one; `area` is a share of the image. The weight
    grows by `growth` at each iteration. Sorting is unnecessary: the largest values approach 1 and the others 0; values
    that are equal at the border approach both in proportion.

    correction: soft edges would increase the mean of a small mask up to a quarter above the requested area, and the frame
    is not seen. With r = mean evidence / area, the share of ones is area * r^-correction, at least half and at most twice
    the area, once the mask is near it; from r = 2 on it is the area, as in the equation, and in between it changes linearly.
    0: the equation.
    """
    assert context.areas is not None
    m = context.padded_evidence.flatten(1)
    with torch.no_grad():
        r = context.evidence.mean((1, 2, 3)).clamp(min=1e-6) / context.areas
        share = context.areas * torch.maximum((r**-correction).clamp(0.5, 2), ((r - 0.5) / 1.5).clamp(max=1))
        ones = (context.inside * share).round().long().clamp(1, m.shape[1])[:, None]
        target = _target_values(m, ones)
    distance = (target * (1 - m) ** 2 + (1 - target) * m**2).mean(1)
    return distance * growth ** context.iteration.to(m)


def _target_values(m: Tensor, ones: Tensor) -> Tensor:
    """Return the targets (B,n) in [0,1] of values m (B,n): 1 for the `ones` (B,1) largest, shared by equal last ones."""
    if is_accelerator(m.device):  # twice the work, but nothing waits for the device to return the numbers
        border = m.sort(1, descending=True).values.gather(1, ones - 1)
    else:
        border = torch.stack([row.kthvalue(len(row) - n + 1).values for row, (n,) in zip(m, ones.tolist())])[:, None]
    above, equal = m > border, m == border
    return above + equal * ((ones - above.sum(1, keepdim=True)) / equal.sum(1, keepdim=True))


def bilateral_tv(
    evidence: Tensor,
    context: RegularizerContext,
    sigma: float = 0.0226,
    reduction: str = "mean",
    cells: int | None = 28,
) -> Tensor:
    """sum exp(-|grad I|^2 / sigma^2) |grad m|^2: the evidence may end where the image has an edge (Khorram et al. 2021).

    m is the evidence at full size, I the image, |grad I|^2 the mean over its colours, both by forward differences.
    sigma: in units of [0,1], of the difference between neighbouring pixels. cells: as in `tv`.
    """
    evidence, images = context.evidence, context.images
    if evidence.shape[2:] != images.shape[2:]:
        raise ValueError("regularizer=bilateral_tv follows the image's edges, but this perturbation masks no pixels")
    if not sigma > 0:
        raise ValueError(f"regularizers.bilateral_tv.sigma={sigma} must be above 0")
    total = torch.zeros_like(evidence)
    for axis, pad in ((-2, (0, 0, 0, 1)), (-1, (0, 1))):
        slope = evidence.diff(dim=axis) * (evidence.shape[axis] / cells if cells else 1)
        weight = torch.exp(-images.diff(dim=axis).square().mean(1, keepdim=True) / sigma**2)
        total = total + F.pad(weight * slope**2, pad)  # zero after the last row and column
    return _reduce(total, reduction)


def information(evidence: Tensor, context: RegularizerContext, reduction: str = "mean") -> Tensor:
    """Nats that pass perturbation=bottleneck, over its features (Schulz et al. 2020)."""
    if not isinstance(context.perturbation, Bottleneck):
        raise ValueError("regularizer=information measures a bottleneck: choose perturbation=bottleneck")
    return _reduce(context.perturbation.information(context.evidence), reduction)


def spatial_l1(evidence: Tensor, context: RegularizerContext, reduction: str = "mean") -> Tensor:
    """|W^-1(m h)| of perturbation=wavelets, so that no pixel is bright without need (Kolek et al. 2023, WaveletX)."""
    if not isinstance(context.perturbation, Wavelets):
        raise ValueError("regularizer=spatial_l1 measures the cartoon of kept coefficients: choose perturbation=wavelets")
    return _reduce(context.perturbation.cartoon(context.evidence).abs(), reduction)


def binary(evidence: Tensor, context: RegularizerContext, reduction: str = "mean") -> Tensor:
    """e(1-e), which favours values of 0 and 1: zero where all are, a quarter at 1/2."""
    return _reduce(evidence * (1 - evidence), reduction)


def spectrum(evidence: Tensor, context: RegularizerContext) -> Tensor:
    """sum_k a_k^2 + b_k^2 of mask=contour: the bending of log r, (1/pi) int (d^2 log r / dt^2)^2 dt. 0 for a circle."""
    parameter = context.parameter
    if parameter.ndim != 4 or parameter.shape[2] != 1 or parameter.shape[3] < 5 or parameter.shape[3] % 2 == 0:
        raise ValueError("regularizer=spectrum weighs a contour's harmonics: choose mask=contour, or leave it out")
    return (parameter[..., 3:] ** 2).flatten(1).sum(1)


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
    return values.flatten(1).mean(1) if reduction == "mean" else values.flatten(1).sum(1)
