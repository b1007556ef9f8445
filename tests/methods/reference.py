"""What the derivations of published methods share: NumPy in float64, written from the papers' formulas, without mpx.

A small smooth network (so that finite differences tell its gradient), upsampling, blurs, optimizers. Random numbers are
given, never drawn: a derivation is told which shifts or noise a step has.
"""

from functools import cache

import numpy as np
import torch
from torch import nn

SIDE, CLASSES = 32, 5


class Network(nn.Module):
    """8x8 patches -> tanh features -> tanh of their mean -> logits; smooth everywhere."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(0)
        self.weights = [random.normal(0, s, shape) for s, shape in ((0.15, (12, 3, 8, 8)), (3.0, (CLASSES, 12)))]
        self.conv, self.head = nn.Conv2d(3, 12, 8, 8, bias=False), nn.Linear(12, CLASSES, bias=False)
        for layer, weight in zip((self.conv, self.head), self.weights):
            layer.weight.data = torch.from_numpy(weight).float()
            weight[:] = layer.weight.data.numpy()  # the same numbers for both, after rounding

    def forward(self, x):  # (B,3,32,32) in [0,1] -> (B,5)
        return self.head(torch.tanh(self.conv(x - 0.5)).mean((2, 3)))


NETWORK = Network().eval()


def logits(x: np.ndarray) -> np.ndarray:
    """(3,32,32) float64 -> (5,), as Network, by hand."""
    conv, head = NETWORK.weights
    patches = (x - 0.5).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)  # (4,4,3,8,8)
    features = np.tanh(np.einsum("ijcyx,kcyx->kij", patches, conv))
    return head @ features.mean((1, 2))


def logits_backward(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(3,32,32): the gradient of weight @ logits(x), by hand; weight: (5,)."""
    conv, head = NETWORK.weights
    patches = (x - 0.5).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)
    slope = (1 - np.tanh(np.einsum("ijcyx,kcyx->kij", patches, conv)) ** 2) * (weight @ head)[:, None, None] / 16
    return np.einsum("kij,kcyx->ciyjx", slope, conv).reshape(3, SIDE, SIDE)


def backward(x: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """(3,32,32): the gradient at x of dz . logits(x), by hand."""
    conv, head = NETWORK.weights
    patches = (x - 0.5).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)
    slope = 1 - np.tanh(np.einsum("ijcyx,kcyx->kij", patches, conv)) ** 2
    return np.einsum("kij,kcyx->ciyjx", slope * (dz @ head)[:, None, None] / 16, conv).reshape(3, SIDE, SIDE)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


@cache  # asked thousands of times
def photos(number: int = 1) -> np.ndarray:
    """(number,3,32,32) in [0,1], float64: smooth blobs and texture, exactly representable in 32 bits."""
    random = np.random.default_rng(1)
    coarse = random.random((number, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    return (0.7 * coarse + 0.3 * random.random((number, 3, SIDE, SIDE))).astype(np.float32).astype(np.float64)


@cache
def bilinear(cells: int, pixels: int) -> np.ndarray:
    """(pixels,cells): linear interpolation between cell centres, the edges held (align_corners=False)."""
    matrix = np.zeros((pixels, cells))
    for i in range(pixels):
        place = min(max((i + 0.5) * cells / pixels - 0.5, 0), cells - 1)
        below = min(int(place), cells - 2) if cells > 1 else 0
        if cells > 1:
            matrix[i, below], matrix[i, below + 1] = 1 - (place - below), place - below
        else:
            matrix[i, 0] = 1
    return matrix


@cache
def nearest(cells: int, pixels: int) -> np.ndarray:
    """(pixels,cells): each pixel takes the cell that it lies in."""
    matrix = np.zeros((pixels, cells))
    matrix[np.arange(pixels), np.arange(pixels) * cells // pixels] = 1
    return matrix


@cache
def gaussian(pixels: int, sigma: float, radius: int | None = None) -> np.ndarray:
    """(pixels,pixels): convolution with a Gaussian cut at the radius or 3 sigma, the edges reflected, not repeated."""
    radius = radius or int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((pixels, pixels))
    for i in range(pixels):
        for offset, weight in zip(range(-radius, radius + 1), kernel):
            j = i + offset
            j = -j if j < 0 else j
            matrix[i, 2 * (pixels - 1) - j if j >= pixels else j] += weight
    return matrix


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """(...,H,W) blurred by a Gaussian."""
    return gaussian(x.shape[-2], sigma) @ x @ gaussian(x.shape[-1], sigma).T


def gradient(f, p: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Of a smooth function of p, by central differences."""
    g = np.zeros_like(p)
    for i in np.ndindex(p.shape):
        up, down = p.copy(), p.copy()
        up[i] += h
        down[i] -= h
        g[i] = (f(up) - f(down)) / (2 * h)
    return g


class Adam:
    """Kingma & Ba 2015, algorithm 1."""

    def __init__(self, lr: float, betas=(0.9, 0.999), eps: float = 1e-8):
        self.lr, self.betas, self.eps, self.t, self.m, self.v = lr, betas, eps, 0, 0.0, 0.0

    def __call__(self, p: np.ndarray, g: np.ndarray, lr: float | None = None) -> np.ndarray:
        self.t += 1
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g**2
        m, v = self.m / (1 - self.betas[0] ** self.t), self.v / (1 - self.betas[1] ** self.t)
        return p - (lr or self.lr) * m / (np.sqrt(v) + self.eps)
