"""A scene to test explainers on: small networks whose evidence is known, images, and a call with cheap options."""

from functools import partial

import torch
from planted import SquareNet, square_photo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from mpx import Classifier, config
from mpx.explainers.base import ExplainerContext
from mpx.option_values import check_options
from mpx.randomness import RowRandom

IMAGES = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])  # a checkerboard in rows 8-15, columns 16-23
TARGETS = torch.tensor([1, 1, 1])
INSIDE = torch.zeros(32, 32, dtype=torch.bool)
INSIDE[8:16, 16:24] = True

NAMES = ["a", "b", "c"]
CHEAP = {  # options that cost less than the defaults
    "smoothgrad": {"samples": 7},
    "integrated_gradients": {"steps": 10},
    "occlusion": {"patch": 6, "stride": 2},
    "rise": {"masks": 300},
    "group_cam": {"groups": 3, "sigma": 5.0, "kernel_size": None},
    "excitation_backprop": {"min_map_fraction": 0.5},
    "smdl": {"regions": 24, "pending": 4, "effectiveness": 0.05},
    "vps": {"regions": 24},
}
EXPLAINERS = config.options("explainer")
OPTIONS = {name: config.option("explainer", name) for name in EXPLAINERS}


class Checkers(nn.Module):
    """Find checkerboards anywhere: a channel that responds to one, and channels for brightness in favour of class 0.

    `act`: makes an activation; with a batch norm, a residual sum and a pooling, as networks have.
    """

    def __init__(self, act=nn.ReLU, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(channels, 6, 2, 2), nn.BatchNorm2d(6)
        self.second, self.pool, self.head = nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.MaxPool2d(2), nn.Linear(6, 3)
        self.act1, self.act2 = act(), act()
        with torch.no_grad():
            self.first.weight.normal_(0, 0.02)
            self.first.weight[0] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]) / (4 * channels)
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


class Attending(Checkers):
    """The same with two blocks of attention, whose values are the features: evidence is what a token is attended for."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(SelfAttention(), SelfAttention())

    def forward(self, x):
        tokens = self.act1(self.norm(self.first(x))).flatten(2).transpose(1, 2)
        return self.head(4 * self.blocks(tokens).mean(1))


class SelfAttention(nn.Module):
    """Two heads that attend by brightness, with a residual sum."""

    def forward(self, x):
        q, v = (20 * x[..., 3:]).unflatten(2, (1, 3)).transpose(1, 2), x.unflatten(2, (2, 3)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q.expand_as(v), q.expand_as(v), v)
        return x + attended.transpose(1, 2).flatten(2)


def network_for(name: str) -> nn.Module:
    """A network that this explainer can explain and whose evidence is the square."""
    return Attending() if name == "legrad" else Checkers()


def frozen(network: nn.Module) -> Classifier:
    classifier = Classifier(network).eval()
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    return classifier


def chain(*between) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), *between,
        nn.Conv2d(8, 8, 3, 1, 1, groups=4), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 3),
    )  # fmt: skip


def vit() -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 4, 2, 16, 24, num_classes=3).eval()
    nn.init.normal_(net.heads.head.weight)
    return net


def explain(name, classifier, images=IMAGES, targets=TARGETS, rows=(0, 1, 2), folder=None, **options) -> Tensor:
    options = CHEAP.get(name, {}) | ({"folder": folder and str(folder)} if name == "files" else {}) | options
    context = ExplainerContext(RowRandom([100 + row for row in rows]), [NAMES[row] for row in rows])
    part = partial(OPTIONS[name], **options)
    check_options(part, "explainer")  # as mpx does when it is built
    return part(images, classifier, targets, context)
