"""Contracts and laws of regularizers (mpx.regularizers) and scores (mpx.scores)."""

from functools import partial

import pytest
import torch
from choices import REGULARIZERS
from contexts import mask_context, regularizer_context, score_context
from torchmetrics.functional.image import total_variation

from mpx import config, regularizers, scores
from mpx.masks.grid import Grid
from mpx.operators import requires_area

S = torch.rand(3, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOGITS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
TARGET = torch.tensor([0, 5, 2, 2])
CONTEXT = regularizer_context(S)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizer_contract(name):
    """(B,), zero where nothing is marked, positive elsewhere, rows independent, gradient as finite differences say.

    The gradient is finite at 0 and 1, where the search begins and ends.
    """
    term = config.option("regularizer", name)
    images = torch.rand(3, 3, 9, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(s, rows=slice(None)):
        return term(s, regularizer_context(s, iteration=3, images=images[rows]))

    value = function(S)
    assert value.shape == (3,) and (value > 0).all()
    if not requires_area(term):  # area is zero where the requested area is marked
        assert (function(torch.zeros_like(S)) == 0).all()
    torch.testing.assert_close(value, torch.cat([function(S[i : i + 1], slice(i, i + 1)) for i in range(3)]))
    assert torch.autograd.gradcheck(function, S.clone().requires_grad_())
    for end in (0.0, 1.0):
        s = torch.full_like(S, end, requires_grad=True)
        assert torch.autograd.grad(function(s).sum(), s)[0].isfinite().all()


@pytest.mark.parametrize("name", config.options("score"))
def test_score_contract(name):
    """(B,), rows independent, unmoved by a shift of all logits (but for the bare logit), gradient by finite differences."""
    score, original = config.option("score", name), LOGITS.flip(1)

    def function(logits, target, rows=slice(None)):
        return score(logits, target, score_context(original[rows], sign=-1.0))

    value = function(LOGITS, TARGET)
    assert value.shape == (4,)
    rows = [function(LOGITS[i : i + 1], TARGET[i : i + 1], slice(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(value, torch.cat(rows))
    assert torch.allclose(value, function(LOGITS + 1, TARGET)) == (name != "logit")
    if name not in ("top", "distortion"):  # which look at more than the target
        raised = LOGITS.clone()
        raised[range(4), TARGET] += 1
        assert (function(raised, TARGET) > value).all()
    assert torch.autograd.gradcheck(lambda x: function(x, TARGET), LOGITS.clone().requires_grad_())


def test_scores_by_another_route():
    p = torch.exp(LOGITS) / torch.exp(LOGITS).sum(1, keepdim=True)
    chosen = p[range(4), TARGET]
    torch.testing.assert_close(scores.probability(LOGITS, TARGET, score_context(LOGITS)), chosen)
    torch.testing.assert_close(scores.log_odds(LOGITS, TARGET, score_context(LOGITS)), torch.log(chosen / (1 - chosen)))
    best_other = torch.stack([max(v for i, v in enumerate(row) if i != t) for row, t in zip(LOGITS, TARGET)])
    torch.testing.assert_close(
        scores.contrastive(LOGITS, TARGET, score_context(LOGITS)), LOGITS[range(4), TARGET] - best_other
    )


def test_tv_of_exponent_1_is_torchmetrics():
    options = {"beta": 1.0, "isotropic": False, "reduction": "sum", "cells": None}
    torch.testing.assert_close(regularizers.tv(S, CONTEXT, **options), total_variation(S, reduction="none"))


def test_tv_by_hand():
    s = torch.tensor([[0.0, 0.5], [1.0, 1.0]])[None, None]
    options = {"beta": 3.0, "reduction": "sum", "cells": None}
    assert regularizers.tv(s, CONTEXT, isotropic=False, **options).item() == pytest.approx(0.5**3 + 1**3 + 0.5**3)
    corner, right = (0.5**2 + 1**2) ** 1.5, 0.5**3
    assert regularizers.tv(s, CONTEXT, isotropic=True, **options).item() == pytest.approx(corner + right)
    mean = regularizers.tv(s, CONTEXT, 3.0, False, "mean", None).item()
    assert mean == pytest.approx((1**3 + 0.5**3) / 2 + 0.5**3 / 2)


@pytest.mark.parametrize("isotropic", [True, False])
def test_the_same_mask_costs_the_same_at_every_mask_size(isotropic):
    smooth = Grid(mask_context((224, 224)), 5, sigma=12.0)(
        torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    )
    costs = [
        [f(torch.nn.functional.avg_pool2d(smooth, 224 // n), CONTEXT).item() for n in (28, 56, 112, 224)]
        for f in (regularizers.l1, partial(regularizers.tv, isotropic=isotropic))
    ]
    for l1_or_tv in costs:
        assert max(l1_or_tv) / min(l1_or_tv) < 1.1


def test_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="reduction='avg' must be 'mean' or 'sum'"):
        regularizers.l1(S, CONTEXT, reduction="avg")


def test_area_may_be_raised_to_a_power_and_grow():
    s = S.float()
    torch.testing.assert_close(regularizers.l1(s, CONTEXT, power=0.3), ((s + 0.0005) ** 0.3 - 0.0005**0.3).mean((1, 2, 3)))
    assert regularizers.l1(s * 0, CONTEXT, power=0.3).abs().max() < 1e-7
    zero = torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert torch.autograd.grad(regularizers.l1(zero, CONTEXT, power=0.3).sum(), zero)[0].isfinite().all()
    for iteration, share in ((0, 0), (15, 0.5), (30, 1), (200, 1)):
        context = regularizer_context(s, iteration)
        torch.testing.assert_close(regularizers.l1(s, context, warmup=30), share * s.mean((1, 2, 3)))
    assert torch.equal(regularizers.l1(s, CONTEXT), s.abs().flatten(1).mean(1))


def test_border_by_hand():
    s = torch.arange(9.0).view(1, 1, 3, 3)
    by_hand = sum(v**2 for v in (0, 1, 2, 6, 7, 8, 0, 3, 6, 2, 5, 8))
    assert regularizers.border(s, CONTEXT, reduction="sum").item() == by_hand
    assert regularizers.border(s, CONTEXT).item() == pytest.approx(by_hand / 12)


def test_hinge_has_no_gradient_beyond_the_margin():
    logits = torch.tensor([[0.0, -8.0], [0.0, -3.0], [0.0, 3.0]], requires_grad=True)
    target = torch.tensor([1, 1, 1])
    minimised, maximised = (scores.hinge(logits, target, score_context(logits, sign)) for sign in (1.0, -1.0))
    assert minimised.tolist() == [-5, -3, 3] and maximised.tolist() == [-8, -3, 1]
    (g,) = torch.autograd.grad(minimised.sum(), logits)
    assert g[0].eq(0).all() and g[1].tolist() == [-1, 1]
