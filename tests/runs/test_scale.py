"""A large run costs what its rows cost: neither memory nor the work for a row grows with it."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from many_photos import many_photos, measured
from planted import SquareNet, square_photo

from mpx import Classifier, config, config_plan
from mpx.learning.batch import RowBatch
from mpx.learning.fitting import fit
from mpx.learning.objective import Objective
from mpx.runs.launch import single_device

FEW, ALL = 24, 32


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return many_photos(tmp_path_factory.mktemp("scale"), ALL)


@pytest.mark.slow
def test_batches_cost_the_same_a_photo_is_opened_twice_and_no_finished_row_again(home):
    _, calls, opened = measured(home, f"limit={FEW}", "name=few")
    assert photos(opened) == {f"p{i:04}": 2 for i in range(FEW)}
    assert calls[-1] < 1.02 * calls[0]  # not seconds, which neighbours lengthen
    _, _, opened = measured(home, "name=few")
    new = {f"p{i:04}" for i in range(FEW, ALL)}
    assert photos(opened) == dict.fromkeys(new, 2)
    rows = {name: count for name, count in opened.items() if name.endswith(".npz") and name.split("-")[0] not in new}
    assert sum(rows.values()) <= 1  # which tells that there are rows


def photos(opened: dict[str, int]) -> dict[str, int]:
    """Return how often each photo was opened: for its digest, and to be explained."""
    return {Path(name).stem: count for name, count in opened.items() if name.endswith(".png")}


@pytest.mark.parametrize("more", [["perturbation.sigma=3"], ["perturbation=noise", "scheduler=cosine", "game=dual"]])
def test_a_batch_is_gone_when_it_is_done_and_not_when_the_collector_comes(more):
    """Else its tensors fill a GPU: what is old is collected once in a hundred batches."""
    cfg = config.compose("steps=12", "mask_size=8", "jitter=1", *more)
    method, make_trainer, net = config.build_method(cfg), config_plan.build_trainer(cfg), SquareNet()

    def solved():
        problem = Objective(method, classifier, square_photo(net)[None], torch.tensor([1]), ["photo"])
        batch = RowBatch(problem)
        fit(batch, make_trainer(**single_device(torch.device("cpu"))))
        return [weakref.ref(x) for x in (problem, batch, problem.images, batch.rows[0].snapshots[0])]

    gc.collect()
    gc.disable()
    try:
        with Classifier(net).frozen() as classifier:
            assert [ref() for ref in solved()] == [None] * 4
    finally:
        gc.enable()
