"""Networks with several layers to choose from, and a small vision transformer."""

import torch
from torch import nn
from torchvision.models import VisionTransformer

from mpx import Classifier


class Residual(nn.Module):
    """Halves the sides; a path leads around its inner modules, none around itself."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True), nn.AvgPool2d(2))

    def forward(self, x):
        return self.inner(x) + nn.functional.avg_pool2d(x, 2)


class Last(nn.Module):
    """(B,C,h,w) -> (B,h,w,C), as Swin's layers."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def network(*between) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), Residual(6), nn.Tanh(), Residual(6), *between, nn.Flatten(), nn.LazyLinear(5)
    ).eval()  # fmt: skip


def classifier(net: nn.Module, size: int = 32) -> Classifier:
    result = Classifier(net)
    result(torch.zeros(1, 3, size, size))
    for parameter in result.parameters():
        parameter.requires_grad_(False)
    return result


def vit() -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 4, 2, 16, 24, num_classes=3).eval()
    nn.init.normal_(net.heads.head.weight)
    return net
