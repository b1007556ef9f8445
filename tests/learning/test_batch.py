"""A batch of rows: snapshots, and rows whose network output is not finite."""

import pytest
import torch
from choices import small_perturbation
from planted import SquareNet, square_photo

from mpx import Classifier, config, explain
from mpx.learning.batch import snapshot_iterations
from mpx.learning.batching import solve
from mpx.learning.loop import optimize
from mpx.learning.method import Method
from mpx.learning.rows import Row

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])


class Breaks(SquareNet):
    """Gives NaN for photos that are bright on average, once it was asked often enough."""

    asked = 0

    def forward(self, x):
        self.asked += 1
        broken = (x.mean((1, 2, 3)) > 0.7) & (self.asked > 10)
        return super().forward(x) * torch.where(broken, float("nan"), 1.0)[:, None]  # and a NaN gradient with it


class InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


@pytest.mark.parametrize("name", ["blur_gaussian", "blur_pyramid"])
def test_nan_output_names_the_image_and_the_iteration_and_spares_the_others(name):
    photos = torch.stack([PHOTOS[0], (PHOTOS[1] + 1).clamp(0, 1), PHOTOS[2]])
    with pytest.raises(ValueError, match=r"image1: the output of model Breaks is NaN or infinite at iteration \d+"):
        explain(Breaks(), photos, 1, perturbation=small_perturbation("black"), mask="grid", mask_size=8, steps=20, jitter=0)
    method = Method(
        small_perturbation(name), config.option("mask", "grid", mask_size=8), config.option("score", "logit"), steps=20
    )
    classifier = Classifier(Breaks())
    with classifier.frozen():
        sound, failures = solve(method, classifier, [Row(p, 1, f"image{i}") for i, p in enumerate(photos)], optimize, 5)
    assert list(failures) == [1] and sound.image_names == ["image0", "image2"] and sound.parameter.isfinite().all()


def test_infinite_gradient_is_named():
    class Net(SquareNet):
        asked = 0

        def forward(self, x):
            self.asked += 1
            return super().forward(InfiniteGradient.apply(x) if self.asked > 8 else x)

    with pytest.raises(ValueError, match=r"image0: the gradient is NaN or infinite at iteration [1-9]"):
        explain(Net(), PHOTOS[:1], 1, perturbation=small_perturbation("black"), mask="grid", mask_size=8, steps=20, jitter=0)


@pytest.mark.parametrize(
    "options, names",
    [
        ({"score": lambda logits, *_: logits[:, 0] * torch.nan}, r"the score test_batch.<lambda> is NaN or infinite at it"),
        ({"regularizers": {"mine": (1.0, lambda s, _: s.mean((1, 2, 3)) / 0)}}, "mine .test_batch.<lambda>. is NaN or"),
        ({"perturbation": lambda x, _: x * torch.nan}, "perturbation test_batch.<lambda> returned NaN or infinite values"),
        ({"regularizers": {"mine": (1.0, lambda s, _: s.sqrt().mean((1, 2, 3)))}}, "check the derivatives of the score and"),
    ],
)
def test_a_part_that_is_not_finite_is_named(options, names):
    options = {"perturbation": small_perturbation("black"), "mask_size": 8, "steps": 3, "jitter": 0} | options
    with pytest.raises(ValueError, match=f"image0: .*{names}"):
        explain(NET, PHOTOS[:1], 1, **options)


@pytest.mark.parametrize("broken", ["the whole photo", "its preservation"])
def test_a_network_that_fails_for_one_photo_is_named_with_it(broken):
    """In a dual the number that people read is of the deletion, and stays finite when the preservation fails."""

    class Net(SquareNet):
        def forward(self, x):
            light = x.mean((1, 2, 3))
            fails = light > 0.8 if broken == "the whole photo" else light < 0.2
            return super().forward(x).where(~fails[:, None], torch.inf)

    photos = torch.stack([PHOTOS[0], torch.full_like(PHOTOS[1], 0.9) if broken == "the whole photo" else PHOTOS[1] * 0.6])
    with pytest.raises(ValueError, match="image1: the output of model Net is NaN or infinite"):
        explain(Net(), photos, 1, perturbation=lambda x, _: x / 2, mask_size=8, steps=1, jitter=0)


@pytest.mark.parametrize("steps, frames", [(1, 24), (5, 24), (150, 24), (300, 10), (150, 2)])
def test_snapshot_iterations(steps, frames):
    result = snapshot_iterations(steps, frames)
    assert result[0] == 0 and result[-1] == steps and len(result) <= frames and result == sorted(set(result))
