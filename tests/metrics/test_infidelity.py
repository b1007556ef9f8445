"""Infidelity and max-sensitivity where the answer is known, and in loops."""

import pytest
import torch
from scene import classifier, context, photos, random_maps, square

from mpx.metrics.infidelity import infidelity, random_squares
from mpx.metrics.max_sensitivity import max_sensitivity

pytest.importorskip("captum")


def logits(score):
    """A network whose softmax of class 1 is score(x) in (0,1)."""
    return lambda x: torch.stack([torch.zeros(len(x)), torch.logit(score(x))], 1)


def test_the_map_of_a_linear_function_is_faithful_at_any_scale():
    weights = random_maps(1)[0, 0] / 2000
    model = logits(lambda x: 0.2 + (x[:, 0] * weights).sum((1, 2)))
    rows = context(1, classifier=model, images=torch.ones(1, 3, 32, 32))
    for scale in (1.0, 0.1):
        result = infidelity(scale * random_maps(1), rows, baseline=0.0)
        assert result.item() == pytest.approx(0, abs=1e-9)
    assert infidelity(random_maps(1, seed=3), rows, baseline=0.0).item() > 1e-7


def test_infidelity_in_loops():
    model, image, map = classifier(), photos(1), random_maps(1)
    generator = torch.Generator().manual_seed(5)
    gone = random_squares(20, (32, 32), 0.25, generator)
    p = lambda x: model(x).softmax(1)[:, 1]  # noqa: E731
    lost = torch.cat([p(image) - p(image * (1 - g) + 0.5 * g) for g in gone])
    inside = (gone * map).sum((1, 2, 3))
    scale = (inside * lost).mean() / inside.square().mean()
    expected = (scale * inside - lost).square().mean().item()
    result = infidelity(map, context(1), samples=20, seed=5, max_batch=20)
    assert result.item() == pytest.approx(expected, rel=1e-4)


def test_squares_are_inside():
    result = random_squares(50, (20, 32), 0.25, torch.Generator().manual_seed(0))
    assert (result.sum((1, 2, 3)) == 5 * 8).all()


def test_infidelity_of_a_row_is_its_own():
    maps = torch.cat([square(), random_maps(1)])
    both = infidelity(maps, context(), samples=8)
    assert both[1].item() == pytest.approx(infidelity(maps[1:], context(1, images=photos()[1:]), samples=8).item())


def test_max_sensitivity_in_loops():
    def explain(classifier, images, targets, seed):
        assert torch.is_grad_enabled() and targets.tolist() == [1, 2]  # all rows, in their order
        return images.mean(1, keepdim=True) * targets.view(-1, 1, 1, 1)

    images, classes = photos(), torch.tensor([1, 2])
    result = max_sensitivity(square(), context(targets=classes, explain=explain), samples=5, radius=0.3, seed=3)
    random = torch.Generator().manual_seed(3)
    noise = torch.stack([torch.rand(3, 32, 32, generator=random) for _ in range(5)])
    for row in range(2):
        noisy = (images[row] + 0.3 * (2 * noise - 1)).clamp(0, 1).mean(1)
        change = (noisy - images[row].mean(0)).flatten(1).norm(dim=1).max() / images[row].mean(0).norm()
        assert result[row].item() == pytest.approx(change.item(), rel=1e-4)


def test_a_map_that_never_changes_is_not_sensitive():
    rows = context(explain=lambda c, x, t, s: square().expand(len(x), -1, -1, -1))
    result = max_sensitivity(square(), rows, samples=3)
    assert result.tolist() == [0, 0]
