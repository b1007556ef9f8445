"""Masks of a photo's wavelet coefficients: what is kept is a cartoon of it (Kolek et al. 2022, CartoonX).

    x' = W^-1(m h + (1-m) v),   h = W x,   v ~ N(mean_s, std_s^2) with mean and spread of the photo's coefficients at scale s

W is the orthogonal wavelet transform of `levels` levels, periodic at the edges, so that h (B,3,H,W) is as large as the
photo: at each level the low frequencies go to the upper left quarter, the details to the others, and the next level works on
that quarter. One mask value per coefficient, shared by the colours. A level is a pair of small matrices made once, so that W
and its inverse are matrix products.
"""

from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from mpx.regularizers import _reduce

TINY = 1e-12  # change of a coefficient of a scale that is the same everywhere


class Wavelets:
    """The site. wavelet: an orthogonal one of PyWavelets, such as db3; levels: the sides must be multiples of 2^levels.

    noisy: masks are judged and shown under a draw of the noise, as they are searched; else what is shown is the cartoon, on
    the noise's mean, and the probability that of the cartoon.
    """

    def __init__(self, x: Tensor, wavelet: str = "db3", levels: int = 5, noisy: bool = False):
        sides = x.shape[2:]
        most = min(next(n for n in range(32) if side % 2 ** (n + 1)) for side in sides)
        if not 1 <= levels <= most:
            raise ValueError(
                f"perturbation.levels={levels} wants sides that 2^levels divides, and the image is {sides[0]}x{sides[1]}: "
                + (f"choose levels from 1 to {most}" if most else "choose a model.size of even numbers")
            )
        self.photos, self.shape, self.levels, self.noisy = x, (1, *sides), levels, noisy
        one = [[_level(wavelet, side >> k).to(x) for k in range(levels)] for side in sides]
        self.steps = list(zip(*one))  # of each level, finest first: matrices of rows and columns
        self.spread = list(zip(*(_spread(matrices) for matrices in one)))  # where a level's coefficients have their energy
        self.coefficients = self.analyse(x)
        self.mean, self.std = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
        scale = torch.zeros(sides, dtype=torch.long, device=x.device)  # 0: coarsest
        for k in range(levels):
            scale[: sides[0] >> k, : sides[1] >> k] = levels - k
        scale[: sides[0] >> levels, : sides[1] >> levels] = 0
        for s in range(levels + 1):
            values = self.coefficients[:, :, scale == s].flatten(1)
            self.mean[:, :, scale == s] = values.mean(1)[:, None, None]
            self.std[:, :, scale == s] = values.std(1)[:, None, None]
        self.change = (self.coefficients - self.mean).square().sum(1, keepdim=True) + x.shape[1] * self.std**2 + TINY
        self.most = self._places(self.change)

    def analyse(self, x: Tensor) -> Tensor:
        """W: pictures (...,H,W) -> coefficients (...,H,W)."""
        out = x.clone()
        for rows, cols in self.steps:
            h, w = len(rows), len(cols)
            out[..., :h, :w] = rows @ out[..., :h, :w] @ cols.T
        return out

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """W^-1, the transpose."""
        low = coefficients[..., : len(self.steps[-1][0]) // 2, : len(self.steps[-1][1]) // 2]
        for rows, cols in reversed(self.steps):
            h, w = len(rows) // 2, len(cols) // 2
            upper = torch.cat([low, coefficients[..., :h, w : 2 * w]], -1)
            low = rows.T @ torch.cat([upper, coefficients[..., h : 2 * h, : 2 * w]], -2) @ cols
        return low

    def draw(self, rng) -> Tensor:
        return self.mean + self.std * rng.normal(*self.photos.shape[1:])

    def still(self, rng) -> Tensor:
        return self.draw(rng) if self.noisy else self.mean.expand_as(self.photos)

    def show(self, noise: Tensor, mask: Tensor) -> tuple[Tensor, tuple]:
        # the photo plus what changes: where the mask is 1, it is the photo to the bit
        return (self.photos + self.synthesise((1 - mask) * (noise - self.coefficients))).clamp(0, 1), ()

    def inside(self):
        return nullcontext()

    def cartoon(self, evidence: Tensor) -> Tensor:
        """(B,3,H,W) what the evidence's coefficients add up to, without any noise; not held in [0,1]."""
        return self.synthesise(evidence * self.coefficients)

    def to_pixels(self, evidence: Tensor) -> Tensor:
        """How much of each place the evidence has, the mean over the scales: 1 where it has all coefficients, 0 where none.

        A scale's share is that of the change that noise would make there: a coefficient's is E (h - v)^2, and lies where its
        wavelet squared does. So what is kept coarse only, as much is in a cartoon, shows faintly, what is sharp brightly.
        """
        shares = [some / most for some, most in zip(self._places(evidence * self.change), self.most)]
        return sum(shares) / len(shares)

    def _places(self, change: Tensor) -> list[Tensor]:
        """(B,1,H,W) of pixels for each scale, of coefficients."""
        found = []
        for rows, cols in self.spread:
            h, w = rows.shape[1] // 2, cols.shape[1] // 2
            details = change[..., : 2 * h, : 2 * w].clone()
            details[..., :h, :w] = 0
            found.append(rows @ details @ cols.T)
        return [*found, rows[:, :h] @ change[..., :h, :w] @ cols[:, :w].T]


def spatial_l1(s: Tensor, full: Tensor, site, reduction: str = "mean") -> Tensor:
    """A regularizer: |W^-1(m h)|, so that no pixel is lit without need (Kolek et al. 2023, WaveletX)."""
    if not hasattr(site, "cartoon"):
        raise ValueError("regularizer=spatial_l1 is of the picture that kept coefficients make: perturbation=wavelets")
    return _reduce(site.cartoon(full).abs(), reduction)


@lru_cache(maxsize=64)
def _level(wavelet: str, side: int) -> Tensor:
    """(side,side) one level along an axis, periodic: the upper half gives low frequencies, the lower half details."""
    try:
        import pywt
    except ImportError:
        raise ValueError('perturbation=wavelets needs PyWavelets: pip install "mpx[wavelets]"') from None
    if wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(wavelet).orthogonal:
        raise ValueError(
            f"perturbation.wavelet={wavelet!r} must be an orthogonal one of PyWavelets, such as haar, db3 or sym4"
        )
    halves = pywt.dwt(torch.eye(side, dtype=torch.float64).numpy(), wavelet, mode="periodization", axis=0)
    return torch.cat([torch.from_numpy(half) for half in halves])


def _spread(matrices: list[Tensor]) -> list[Tensor]:
    """Of each level, (side, coefficients) the squares of its wavelets along an axis: each sums to 1."""
    found, basis = [], torch.eye(len(matrices[0])).to(matrices[0])
    for matrix in matrices:
        basis = basis @ matrix.T
        found.append(basis.square())
        basis = basis[:, : len(matrix) // 2]
    return found
