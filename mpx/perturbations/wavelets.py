"""Perturbation of an image's wavelet coefficients: a mask keeps a cartoon of the image (Kolek et al. 2022, CartoonX).

    x' = W^-1(m h + (1-m) v),   h = W x,   v ~ N(mean_s, std_s^2), the mean and spread of the image's coefficients at scale s

or v uniform from mean_s - std_s to mean_s + std_s (Kolek et al. 2023, WaveletX).

W is the orthogonal wavelet transform of `levels` levels, periodic at the edges, so that h (B,C,H,W) is as large as the
image: each level puts the low frequencies into the upper left quarter and the details into the others, and the next level
transforms that quarter. One mask value per coefficient, shared by the colours. A level is a pair of small matrices made
once, so that W and its inverse are matrix products.
"""

from functools import lru_cache

import torch
from torch import Tensor

from mpx.perturbations.base import PerturbationContext, PreparedPerturbation
from mpx.randomness import RowRandom

TINY = 1e-12  # change of a coefficient of a scale that is the same everywhere


def wavelets(
    images: Tensor, context: PerturbationContext, wavelet: str = "db3", levels: int = 5, noisy: bool = False,
    noise: str = "gaussian",
) -> "Wavelets":  # fmt: skip
    """Wavelet coefficients become noise with the mean and spread of their scale.

    wavelet: an orthogonal wavelet of PyWavelets. levels: the image's sides are multiples of 2^levels. noisy: evaluate and
    show masks with noise, as during the optimization; otherwise with the noise's mean, so that the picture is the cartoon.
    noise: "gaussian" or "uniform".
    """
    return Wavelets(images, wavelet, levels, noisy, noise)


class Wavelets(PreparedPerturbation):
    """Images (B,C,H,W) and their coefficients h (B,C,H,W)."""

    def __init__(self, images: Tensor, wavelet: str, levels: int, noisy: bool, noise: str):
        sides = images.shape[2:]
        max_levels = min(next(n for n in range(32) if side % 2 ** (n + 1)) for side in sides)
        if not 1 <= levels <= max_levels:
            raise ValueError(
                f"perturbation.levels={levels} needs sides that 2^levels divides, but the image is {sides[0]}x{sides[1]}: "
                + (f"choose levels from 1 to {max_levels}" if max_levels else "choose a model.size of even numbers")
            )
        if noise not in ("gaussian", "uniform"):
            raise ValueError(f"perturbation.noise={noise!r} must be 'gaussian' or 'uniform'")
        self.is_uniform = noise == "uniform"
        self.images = images
        self.mask_shape = (1, *sides)
        self.noisy = noisy
        axes = [[_level_matrix(wavelet, side >> k).to(images) for k in range(levels)] for side in sides]
        self.matrices = list(zip(*axes))  # (rows, columns) of each level, finest first
        self.energies = list(zip(*map(_energies, axes)))  # where a level's coefficients have their energy
        self.coefficients = self.analyse(images)
        self.mean, self.std = self._noise_statistics(levels)  # (B,1,H,W) each
        variance = self.std**2 / (3 if self.is_uniform else 1)
        spread = (self.coefficients - self.mean).square().sum(1, keepdim=True) + images.shape[1] * variance
        self.expected_change = spread + TINY  # (B,1,H,W) E (h - v)^2
        self.max_change = self._change_per_scale(self.expected_change)

    def _noise_statistics(self, levels: int) -> tuple[Tensor, Tensor]:
        h, w = self.images.shape[2:]
        scale = torch.zeros(h, w, dtype=torch.long, device=self.images.device)  # 0: coarsest
        for k in range(levels):
            scale[: h >> k, : w >> k] = levels - k
        scale[: h >> levels, : w >> levels] = 0
        mean, std = torch.zeros_like(self.images[:, :1]), torch.zeros_like(self.images[:, :1])
        for s in range(levels + 1):
            values = self.coefficients[:, :, scale == s].flatten(1)
            mean[:, :, scale == s] = values.mean(1)[:, None, None]
            std[:, :, scale == s] = values.std(1)[:, None, None]
        return mean, std

    def analyse(self, images: Tensor) -> Tensor:
        """Return the coefficients (...,H,W) of images (...,H,W)."""
        coefficients = images.clone()
        for rows, columns in self.matrices:
            h, w = len(rows), len(columns)
            coefficients[..., :h, :w] = rows @ coefficients[..., :h, :w] @ columns.T
        return coefficients

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the images (...,H,W) of coefficients (...,H,W)."""
        rows, columns = self.matrices[-1]
        low = coefficients[..., : len(rows) // 2, : len(columns) // 2]
        for rows, columns in reversed(self.matrices):
            h, w = len(rows) // 2, len(columns) // 2
            upper = torch.cat([low, coefficients[..., :h, w : 2 * w]], -1)
            low = rows.T @ torch.cat([upper, coefficients[..., h : 2 * h, : 2 * w]], -2) @ columns
        return low

    def sample(self, rng: RowRandom) -> Tensor:
        shape = self.images.shape[1:]
        return self.mean + self.std * (2 * rng.uniform(*shape) - 1 if self.is_uniform else rng.normal(*shape))

    def fixed_sample(self, rng: RowRandom) -> Tensor:
        return self.sample(rng) if self.noisy else self.mean.expand_as(self.images)

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        assert sample is not None
        # the image plus the change, so that a mask of 1 gives the image to the bit
        return (self.images + self.synthesise((1 - mask) * (sample - self.coefficients))).clamp(0, 1)

    def cartoon(self, evidence: Tensor) -> Tensor:
        """Return the sum (B,C,H,W) of the evidence's coefficients, without noise; not limited to [0,1]."""
        return self.synthesise(evidence * self.coefficients)

    def to_image(self, evidence: Tensor) -> Tensor:
        """Return the evidence's share at each position, the mean over the scales: 1 for all coefficients, 0 for none.

        A scale's share is a share of the change that noise would make there: E (h - v)^2 of a coefficient, distributed as
        its squared wavelet. So positions with coarse coefficients only are faint, as most of a cartoon.
        """
        scales = self._change_per_scale(evidence * self.expected_change)
        shares = [change / max_change for change, max_change in zip(scales, self.max_change)]
        return sum(shares[1:], shares[0]) / len(shares)

    def _change_per_scale(self, change: Tensor) -> list[Tensor]:
        """Return the change of pixels (B,1,H,W) for each scale, from the change of coefficients (B,1,H,W)."""
        scales = []
        for rows, columns in self.energies:
            h, w = rows.shape[1] // 2, columns.shape[1] // 2
            details = change[..., : 2 * h, : 2 * w].clone()
            details[..., :h, :w] = 0
            scales.append(rows @ details @ columns.T)
        return [*scales, rows[:, :h] @ change[..., :h, :w] @ columns[:, :w].T]


@lru_cache(maxsize=64)
def _level_matrix(wavelet: str, side: int) -> Tensor:
    """Return the matrix (side,side) of one level along an axis, periodic: low frequencies above, details below."""
    try:
        import pywt
    except ImportError:
        raise ValueError('perturbation=wavelets needs PyWavelets: pip install "mpx[wavelets]"') from None
    if wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(wavelet).orthogonal:
        raise ValueError(
            f"perturbation.wavelet={wavelet!r} must be an orthogonal wavelet of PyWavelets, such as haar, db3 or sym4"
        )
    halves = pywt.dwt(torch.eye(side, dtype=torch.float64).numpy(), wavelet, mode="periodization", axis=0)
    return torch.cat([torch.from_numpy(half) for half in halves])


def _energies(matrices: list[Tensor]) -> list[Tensor]:
    """Return, for each level, the squared wavelets (side, coefficients) along an axis; each sums to 1."""
    energies = []
    basis = torch.eye(len(matrices[0])).to(matrices[0])
    for matrix in matrices:
        basis = basis @ matrix.T
        energies.append(basis.square())
        basis = basis[:, : len(matrix) // 2]
    return energies
