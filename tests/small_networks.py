"""A small network whose output a test changes, and comparisons of a network before and after."""

import torch
from torch import Tensor, nn

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Wrap(nn.Module):
    """A small network whose output passes through `change`."""

    def __init__(self, change=lambda out: out):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 5))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.body(x))


def state(network: nn.Module) -> tuple:
    """Return everything that must not change."""
    return (
        [m.training for m in network.modules()],
        [(p.requires_grad, p.grad, p.device) for p in network.parameters()],
        [dict(m._forward_hooks) for m in network.modules()],
        {k: v.clone() for k, v in network.state_dict().items()},
    )


def equal_states(a: tuple, b: tuple) -> bool:
    return a[:3] == b[:3] and a[3].keys() == b[3].keys() and all(torch.equal(a[3][k], b[3][k]) for k in a[3])
