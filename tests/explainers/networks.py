"""Small networks whose evidence is known, for explainers that need layers."""

import torch
from planted import SquareNet, square_photo
from torch import nn

from mpx import Classifier

PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])  # a checkerboard in rows 8-15, columns 16-23
TARGETS = torch.tensor([1, 1, 1])
INSIDE = torch.zeros(32, 32, dtype=torch.bool)
INSIDE[8:16, 16:24] = True


class Checkers(nn.Module):
    """Finds checkerboards anywhere: what answers to one, and channels for brightness, which speak for class 0.

    `act`: makes an activation; with a batch norm, a residual sum and a pooling, as networks have.
    """

    def __init__(self, act=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 6, 2, 2), nn.BatchNorm2d(6)
        self.second, self.pool, self.head = nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.MaxPool2d(2), nn.Linear(6, 3)
        self.act1, self.act2 = act(), act()
        with torch.no_grad():
            self.first.weight.normal_(0, 0.02)
            self.first.weight[0] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]) / 12
            self.first.bias.copy_(torch.tensor([-0.1, 0.0, 0.0, 0.0, 0.0, 0.0]))
            self.norm.running_mean.uniform_(-0.02, 0.02)
            self.norm.running_var.uniform_(0.8, 1.2)
            self.second.weight.normal_(0, 0.02)
            self.second.weight[0, 0] += 0.1
            self.head.weight.normal_(0, 0.05)
            self.head.weight[1, 0], self.head.weight[0, 0] = 60.0, -20.0
            self.head.bias.zero_()

    def forward(self, x):
        x = self.act1(self.norm(self.first(x)))
        x = self.act2(self.second(x) + x)
        return self.head(self.pool(x).mean((2, 3)))


def frozen(network: nn.Module) -> Classifier:
    classifier = Classifier(network).eval()
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    return classifier
