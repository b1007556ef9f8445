"""What makes passes cheaper changes no mask beyond rounding, or says so."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from dispatch import make_batch, small_method, tiny_network
from planted import SquareNet, square_photo

from mpx import Classifier, config, explain
from mpx.learning.loop import optimize
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.perturbations.blur import blur_gaussian

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
run = partial(
    explain, NET, PHOTOS, 1, perturbation=partial(blur_gaussian, sigma=3.0), mask_size=8, steps=30, jitter=2, noise=0.05
)


class Conv(torch.nn.Sequential):
    """What folding and channels-last are about, with a strong gradient."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv2d(3, 8, 5, 2), torch.nn.BatchNorm2d(8), torch.nn.SiLU(), torch.nn.Conv2d(8, 8, 3, groups=8),
            torch.nn.BatchNorm2d(8), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 12 * 12, 5),
        )  # fmt: skip
        for norm in (self[1], self[4]):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.05, 0.2)


def slope(precision="32", order=torch.contiguous_format, folded=False) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the objective at a random mask: value (B,) and gradient (B,1,h,w)."""
    classifier = Classifier(Conv().eval().to(memory_format=order))
    method = Method(
        partial(blur_gaussian, sigma=3.0), config.option("mask", "grid", mask_size=8), config.option("score", "probability"),
        precision=precision,
    )  # fmt: skip
    with classifier.frozen_and_folded(PHOTOS) if folded else classifier.frozen():
        problem = Objective(method, classifier, PHOTOS, torch.tensor([1, 0, 4]), ["a", "b", "c"])
        parameter = problem.rng.at("test").uniform(1, 8, 8).requires_grad_()
        total = problem.terms(parameter, 3)["total"]
        (gradient,) = torch.autograd.grad(total.sum(), parameter)
    return total.detach(), gradient


@pytest.mark.parametrize(
    "options, tolerance",
    [
        ({"folded": True}, 1e-5),  # folded
        ({"order": torch.channels_last}, 1e-5),
        ({"order": torch.channels_last, "folded": True}, 1e-5),
        ({"precision": "bf16"}, 0.1),
        ({"precision": "16"}, 0.01),
    ],
)
def test_the_objective_and_its_gradient_are_the_plain_networks(options, tolerance):
    (value, gradient), (plain, expected) = slope(**options), slope()
    torch.testing.assert_close(value, plain, atol=tolerance, rtol=0)
    for row, wanted in zip(gradient, expected):  # none is lost: float16's smallest number is 6e-8
        assert (row - wanted).norm() <= 10 * tolerance * wanted.norm() and row.dtype == torch.float32


NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")


@pytest.mark.parametrize("preset", [pytest.param("default", marks=pytest.mark.slow), "quick"])  # of the same parts
def test_an_iteration_is_one_graph(preset, monkeypatch):
    """From the mask to the losses, for every iteration and batch, and its graph takes the search where the code does."""
    graphs = []

    def backend(graph, inputs, **options):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    method = small_method(preset, "steps=4", "noise=0.1", "flip=0.5")
    classifier, results = tiny_network(method), []
    with classifier.frozen():
        for one in (replace(method, compile=True), replace(method, compile=True), method):
            batch = make_batch(one, classifier, 2, torch.device("cpu"))
            optimize(batch)
            results.append((batch.parameter, batch.rows[0].passes))
    assert len(graphs) == 1
    for parameter, passes in results[:2]:
        assert torch.equal(parameter, results[2][0]) and passes == results[2][1]


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_compiled_search_equals_the_eager_one():
    a, b = run(compile=True, batch_size=2), run(batch_size=2)
    torch.testing.assert_close(a.parameter, b.parameter, atol=1e-3, rtol=0)
    assert a.value_after.shape == (3,)


def test_an_error_of_the_compiler_is_one_sentence(monkeypatch):
    class Broken(torch._dynamo.exc.TorchDynamoException):
        pass

    def compiler(*_, **__):
        def call(*arguments):
            raise Broken("no compiler\nwith a long story")

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(ValueError, match=r"SquareNet cannot be compiled here \(no compiler\): set compile=false"):
        run(compile=True)
    assert "_compiled" not in vars(NET)
