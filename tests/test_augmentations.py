import pytest
import torch
from contexts import augmentation_context

from mpx import augmentations as augment
from mpx import config
from mpx.randomness import RowRandom, key

X = torch.rand(4, 6, 20, 24, generator=torch.Generator().manual_seed(0))
STRENGTH = {"crop": 4, "jitter": 3, "noise": 0.1, "flip": 0.5}


@pytest.mark.parametrize("name", config.options("augment"))
def test_a_row_draws_its_own_numbers(name):
    """The same whatever the batch and the place in it; new at the next iteration and for the next sample."""
    x = X[:, :3]
    function = config.option("augment", name, **{name: STRENGTH.get(name, 1)})
    seeds = [5, 6, 7, 8]

    def augmented(x, seeds, iteration, sample=0):
        return function(x, augmentation_context(RowRandom(seeds).at(iteration, sample), iteration))

    together = torch.stack([augmented(x, seeds, i) for i in range(8)])
    alone = torch.stack([augmented(x[2:3], seeds[2:3], i) for i in range(8)])
    assert torch.equal(together[:, 2:3], alone)
    back = torch.stack([augmented(x.flip(0), seeds[::-1], i) for i in range(8)])
    assert torch.equal(back.flip(1), together)
    assert any(not torch.equal(together[0], other) for other in together[1:])
    samples = torch.stack([augmented(x, seeds, 0, s) for s in range(8)])
    assert any(not torch.equal(samples[0], other) for other in samples[1:])


def test_jitter_translates_and_replicates_edges():
    moved = augment.jitter(X, augmentation_context(RowRandom([1, 2, 3, 4]).at(0)), 3)
    offsets = RowRandom([1, 2, 3, 4]).at(0).integers(-3, 3, 2)
    for x, m, (dy, dx) in zip(X, moved, offsets):
        rows, cols = (torch.arange(20) + dy).clamp(0, 19), (torch.arange(24) + dx).clamp(0, 23)
        assert torch.equal(m, x[:, rows][:, :, cols])
    assert torch.equal(augment.jitter(X, augmentation_context(RowRandom([1, 2, 3, 4])), 0), X)


def test_jitter_reaches_every_offset_equally():
    draws = torch.cat([RowRandom(list(range(200))).at(i).integers(-2, 2, 2) for i in range(20)])  # (4000,2)
    counts = torch.stack([torch.bincount(draws[:, axis] + 2, minlength=5) for axis in (0, 1)])
    assert counts.shape == (2, 5) and counts.min() > 700 and counts.max() < 900  # 800 each


def test_noise_has_its_strength_per_channel():
    x = torch.zeros(2, 3, 100, 100)
    noisy = augment.noise(x, augmentation_context(RowRandom([1, 2])), 0.2, [1.0, 0.5, 2.0])
    torch.testing.assert_close(noisy.std((0, 2, 3)), torch.tensor([0.2, 0.1, 0.4]), rtol=0.03, atol=0)


def test_flip_mirrors_with_its_probability():
    x = torch.rand(1000, 1, 1, 2)
    flipped = (augment.flip(x, augmentation_context(RowRandom(list(range(1000)))), 0.3) == x.flip(-1)).flatten(1).all(1)
    assert 250 < flipped.sum() < 350


def test_alternate_flips_at_even_iterations():
    x = torch.rand(3, 1, 2, 5)
    context = augment.AugmentationContext(RowRandom([1, 2, 3]), torch.tensor([0, 1, 2]))
    flipped = augment.flip(x, context, 0.0, alternate=True)
    assert torch.equal(flipped, torch.stack([x[0].flip(-1), x[1], x[2].flip(-1)]))


@pytest.mark.parametrize("name", config.options("augment"))
def test_augmentations_that_move_pixels(name):
    is_geometric = name in ("crop", "flip", "jitter")
    assert augment.moves_pixels(config.option("augment", name, **{name: STRENGTH.get(name, 1)})) == is_geometric


def test_a_moment_is_an_object_of_its_own():
    rng = RowRandom([1, 2])
    early, late = rng.at(0), rng.at(1)
    first, other = early.normal(3), late.normal(3)
    assert torch.equal(rng.at(0).normal(3), first) and not torch.equal(first, other)
    assert not torch.equal(early.normal(3), first)  # draws of one object follow each other
    rows = rng.at([0, 1]).normal(3)
    assert torch.equal(rows[0], first[0]) and torch.equal(rows[1], other[1])


def test_keys_are_the_same_on_every_machine():
    assert key("a", 1) == key("a", 1) != key("a", 2) and 0 <= key("a") < 2**63
    assert key(0, b"x", 3) == 3063094400375713934


def test_too_much_jitter_is_named():
    with pytest.raises(ValueError, match="jitter=20 px"):
        augment.jitter(X, augmentation_context(RowRandom([1, 2, 3, 4])), 20)
