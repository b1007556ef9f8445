"""Rows that stop by themselves: the same masks in any batch, and no pass for a row that is over."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from planted import SquareNet, square_photo
from trainers import cpu_trainer

from mpx import Classifier, config, explain
from mpx.explanation import join
from mpx.learning import stopping as stops
from mpx.learning.batch import RowBatch
from mpx.learning.batching import RowSolver, prepare_batch
from mpx.learning.fitting import fit
from mpx.learning.optimizers import RowAdam
from mpx.learning.rows import Row
from mpx.masks.grid import Grid
from mpx.perturbations.base import FixedPixelPerturbation
from mpx.perturbations.blur import blur_gaussian

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(7)])
blur = partial(blur_gaussian, sigma=3.0)


class Fixed(FixedPixelPerturbation):
    """Rows of several batches cannot be joined."""

    row_tensors = None


def still(x, context):
    """The same perturbation, whose rows cannot be joined."""
    return Fixed(x, blur(x, context))


def uneven(means: list[float]) -> float:
    """Rows of different photos slow down and stop at different times, for reasons of their own."""
    lasts = 2 + int(means[0] * 1e3) % 5 if means else 1
    return 0.0 if len(means) >= lasts else 0.5 if len(means) > lasts // 2 else 1.0


run = partial(
    explain, NET, target=1, perturbation=blur, game="deletion", ranking="trajectory", mask_size=8, steps=60, jitter=2,
    noise=0.05, optimizer="adam", lr=0.1, scheduler=None, stop=uneven,
)  # fmt: skip


def equal(a, b) -> None:
    assert a.names == b.names and a.iterations == b.iterations and a.steps.tolist() == b.steps.tolist()
    for name in (
        "parameter",
        "saliency",
        "perturbed",
        "value_after",
        "value_before",
        "passes",
        "forwards",
        "frame_parameters",
        "frame_values",
    ):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for term in a.curves:
        assert torch.equal(a.curves[term], b.curves[term]), term


@pytest.mark.parametrize("more", [
    {},
    pytest.param({"optimizer": "sgd", "scheduler": "cosine"}, marks=pytest.mark.slow),
    {"scheduler": "linear", "flip": 0.5, "samples": 2},
    pytest.param({"game": "dual"}, marks=pytest.mark.slow),
    {"game": "product", "mask": "pair"},
    {"mask": "superpixels", "target": [1, 0]},
    pytest.param({"mask": "bernoulli", "lr": 0.3}, marks=pytest.mark.slow),
])  # fmt: skip
def test_continuous_batches_equal_fixed_ones_to_the_bit(more):
    together, fixed = (run(PHOTOS, batch_size=3, deterministic=True, **more | {"perturbation": p}) for p in (blur, still))
    assert len(set(together.steps.tolist())) > 2, "the rows shall stop at different times"
    equal(together, fixed)
    singles = [run(photo, batch_size=1, **more) for photo in PHOTOS[-3:]]  # which joined a batch that had begun
    rows = slice(-sum(map(len, (e.steps for e in singles))), None)
    assert torch.cat([e.steps for e in singles]).tolist() == together.steps[rows].tolist()
    torch.testing.assert_close(together.parameter[rows], torch.cat([e.parameter for e in singles]), atol=1e-4, rtol=0)


class SharpGrid(Grid):
    """A mask of a user's own that declares nothing about its rows."""

    def forward(self, parameter):
        return super().forward(parameter) ** 2


def test_a_mask_class_that_declares_nothing_goes_with_its_rows():
    sharp = partial(SharpGrid, mask_size=8)
    together, fixed = (
        run(PHOTOS, batch_size=3, deterministic=True, mask=sharp, mask_size=None, perturbation=p) for p in (blur, still)
    )
    assert len(set(together.steps.tolist())) > 2, "the rows shall stop at different times"
    equal(together, fixed)
    assert not torch.equal(together.parameter, run(PHOTOS, batch_size=3, deterministic=True).parameter)


def test_areas_and_a_growing_weight_go_with_their_rows():
    chosen = config.method("extremal2019", "steps=40", "area=[0.1,0.2]", "mask_size=8", "perturbation.sigma=3")
    chosen = replace(chosen, stop=uneven)
    together = explain(NET, PHOTOS, 1, method=chosen, batch_size=3, deterministic=True)
    alone = torch.cat([explain(NET, photo, 1, method=chosen, batch_size=1).parameter for photo in PHOTOS[-3:]])
    torch.testing.assert_close(together.parameter[-len(alone) :], alone, atol=1e-3, rtol=0)


def test_lightning_gives_the_same_bits():
    method = replace(config.method("quick", "mask_size=8", "steps=60"), perturbation=blur, stop=uneven)
    classifier, names = Classifier(NET), [f"image{i}" for i in range(len(PHOTOS))]
    rows = [Row(photo, 1, name) for photo, name in zip(PHOTOS, names)]

    def next_rows(number: int) -> list[Row]:
        first, rows[:] = rows[:number], rows[number:]
        return first

    with classifier.frozen_and_folded(PHOTOS):
        solver = RowSolver(
            prepare=partial(prepare_batch, method, classifier), optimize=lambda batch: fit(batch, cpu_trainer()),
            next_rows=next_rows, batch_size=3, warn=print,
        )  # fmt: skip
        parts = {solution.rows[0].image_name: solution.explanation for solution in solver}
    equal(join([parts[name] for name in sorted(parts)]), explain(NET, PHOTOS, 1, method=method, batch_size=3))


def test_finished_rows_do_not_run_through_the_network(monkeypatch):
    seen = []
    real = RowBatch.terms
    monkeypatch.setattr(RowBatch, "terms", lambda self: seen.append(len(self.parameter)) or real(self))
    e = run(PHOTOS, batch_size=3)
    assert sum(seen) == e.steps.sum() == e.passes.sum() < 60 * len(PHOTOS)
    assert seen[:-30] == [3] * len(seen[:-30])  # full until the rows run out
    seen.clear()
    assert sum(run(PHOTOS, batch_size=3, stop=None).steps) == sum(seen) == 60 * len(PHOTOS)


def test_what_is_over_stays_as_it_was():
    e, long = run(PHOTOS[:3], stop=lambda means: uneven(means) > 0), run(PHOTOS[:3], stop=None)
    for row, at in enumerate(e.steps.tolist()):
        one = e.select([row])
        assert one.iterations[-1] == at == len(one.curves["total"]) and one.passes == at
        torch.testing.assert_close(one.curves["total"], long.curves["total"][:at, row : row + 1], atol=1e-4, rtol=0)
        assert torch.equal(one.frame_parameters[-1], one.parameter)
        assert torch.equal(e.frame_parameters[-1, row], one.parameter[0])
        assert (e.curves["total"][at - 1 :, row] == e.curves["total"][at - 1, row]).all()


def test_settled():
    rule = partial(stops.settled, tolerance=0.1, cuts=4, power=2.0)
    assert [rule(m) for m in ([], [1.0], [1.0, 0.5], [1.0, 0.5, 0.4])] == [1, 1, 1, 1]
    once, twice = 0.75**2, 0.5**2
    assert rule([1.0, 0.5, 0.46]) == once == rule([1.0, 0.5, 0.6]) == rule([9.0, 4.5, 4.14])  # whatever the scale
    assert rule([1.0, 1.1]) == once  # nothing gained
    assert rule([1.0, 0.5, 0.6, 0.52]) == once  # the best counts anew
    assert rule([1.0, 0.5, 0.6, 0.6]) == twice
    assert (
        rule([1.0, 0.5, 0.6, 0.6, 0.6, 0.6]) == 0 == rule([1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.1]) == rule([1.0, float("nan")])
    )
    for options, words in (({"cuts": 0}, "stop.cuts=0 must be"), ({"tolerance": 1.0}, "stop.tolerance=1.0 must be")):
        with pytest.raises(ValueError, match=words):
            run(PHOTOS, stop=partial(stops.settled, **options))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "row_adam"])
def test_a_rate_is_a_part_of_the_learning_rate(optimizer):
    halved = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda k: 1.0 if k < 5 else 0.5)
    a = run(PHOTOS[:3], optimizer=optimizer, stop=lambda means: 0.5 if means else 1.0)
    b = run(PHOTOS[:3], optimizer=optimizer, stop=None, scheduler=halved)
    torch.testing.assert_close(a.parameter, b.parameter, atol=2e-4, rtol=0)
    assert not torch.allclose(a.parameter, run(PHOTOS[:3], optimizer=optimizer, stop=None).parameter, atol=0.1)


@pytest.mark.parametrize("share, side", [(0.5, 1), (1.0, 3)])
def test_row_adam_is_adam_where_a_row_is_one_cell_or_each_counts_for_itself(share, side):
    draw, start = torch.Generator().manual_seed(0), torch.zeros(4, 1, side, side)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.3, betas=(0.7, 0.95), eps=1e-12)
    rows = [RowAdam([ours], lr=0.3, elementwise_share=share), adam]
    for _ in range(20):
        ours.grad = theirs.grad = torch.randn(start.shape, generator=draw) * torch.logspace(-6, 3, 4).view(4, 1, 1, 1)
        for optimizer in rows:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_row_adams_steps_grow_with_a_cells_gradient_and_not_with_its_rows(share):
    wide = torch.nn.Parameter(torch.zeros(4, 1, 3, 3))
    wide.grad = torch.arange(9.0).view(1, 1, 3, 3) * torch.logspace(-6, 3, 4).view(4, 1, 1, 1)
    RowAdam([wide], lr=0.3, elementwise_share=share).step()
    torch.testing.assert_close(wide[0], wide[3])
    torch.testing.assert_close(wide[0, 0, 2, 2], 8 ** (1 - share) * wide[0, 0, 0, 1])
    assert wide[0, 0, 0, 0] == 0
    if share == 0:
        torch.testing.assert_close(wide[0].square().mean().sqrt(), torch.tensor(0.3))


def test_optimizers_that_step_all_rows_at_once_stop_too():
    e = run(PHOTOS[:4], batch_size=2, optimizer="line_search", noise=0.0)
    assert len(set(e.steps.tolist())) > 1 and (e.passes == e.steps).all()
    alone = torch.cat([run(photo, batch_size=1, optimizer="line_search", noise=0.0).parameter for photo in PHOTOS[:4]])
    torch.testing.assert_close(e.parameter, alone, atol=1e-3, rtol=0)
