"""A network whose evidence is known by construction, and photos for it: what a mask must find."""

import os
import time
from pathlib import Path

import torch
from torch import nn

# the command line that explains photos/ of the `folder` fixture by the network below
SQUARE = [
    *("model=custom", "model.network=net.py:SquareNet", "model.mean=0", "model.std=1", "model.size=32"),
    *("model.categories=names.txt", "perturbation.sigma=3", "mask_size=8", "steps=12", "jitter=1", "device=cpu"),
    "ranking=trajectory",  # it has no layer for the prior of the default
]


class SquareNet(nn.Module):
    """Looks at one square only: the logit of class 1 is how much of a checkerboard is there, so the square is its evidence.

    Every perturbation (blur, noise, constant, in-fill) destroys a checkerboard.
    """

    def __init__(self, side: int = 32, top: int = 8, left: int = 16, size: int = 8, gain: float = 20.0):
        super().__init__()
        self.box = (slice(top, top + size), slice(left, left + size))
        self.gain = nn.Parameter(torch.tensor(gain))  # something that could be trained, and must not be
        self.side = side

    def forward(self, x):  # (B,C,H,W) -> (B,2)
        square = x[..., self.box[0], self.box[1]]
        pattern = torch.ones_like(square[0, 0])
        pattern[::2, ::2] = pattern[1::2, 1::2] = -1.0
        match = (square * pattern).mean((1, 2, 3))
        return torch.stack([torch.zeros_like(match), self.gain * (match - 0.1)], 1)


class RoundingNet(SquareNet):
    """With convolutions beside, whose kernels round differently in batches of another size, as SquareNet's never do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        random = torch.Generator().manual_seed(0)
        for parameter in self.body.parameters():
            parameter.data = torch.rand(parameter.shape, generator=random) * 0.2 - 0.1

    def forward(self, x):
        return super().forward(x) + self.body(x).mean((2, 3))[:, :2]


class PausingNet(RoundingNet):
    """As slow as a second for a pass once a file is there of which the file `pause` says the name, e.g. */p02*.

    A run that is to be interrupted amid its rows can therefore not be finished before, on the fastest machine. Of ranks
    that wait for each other only the first is slow.
    """

    def forward(self, x):
        end = time.monotonic() + 1
        while _pauses() and time.monotonic() < end:
            time.sleep(0.01)
        return super().forward(x)


def _pauses() -> bool:
    pause = Path("pause")
    return pause.exists() and os.environ.get("RANK", "0") == "0" and any(Path().glob(pause.read_text()))


class PlaceNet(RoundingNet):
    """And with a rounding that depends on a row's place in the batch, as that of some kernels for two outputs does."""

    def forward(self, x):
        place = torch.arange(len(x), device=x.device)[:, None]
        return super().forward(x) * (1 + place * 2.0**-23)


def square_photo(net: SquareNet, seed: int = 0, channels: int = 3) -> torch.Tensor:
    """(C,H,W) noise in [0,1] with the checkerboard that the network looks for in its square."""
    generator = torch.Generator().manual_seed(seed)
    photo = torch.rand(channels, net.side, net.side, generator=generator) * 0.4 + 0.3
    pattern = torch.ones(channels, net.side, net.side)
    pattern[:, ::2, ::2] = pattern[:, 1::2, 1::2] = -1.0
    rows, cols = net.box
    photo[:, rows, cols] = 0.5 + 0.4 * pattern[:, rows, cols]
    return photo
