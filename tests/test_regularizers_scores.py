import pytest
import torch
from choices import REGULARIZERS
from torchmetrics.functional.image import total_variation

from mpx import config, regularizers, scores
from mpx.masks.grid import Grid
from mpx.parts import asks, offer

S = torch.rand(3, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOGITS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
TARGET = torch.tensor([0, 5, 2, 2])


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizer_contract(name):
    """(B,), zero where nothing is marked, positive elsewhere, rows independent, gradient as finite differences say."""
    term = config.option("regularizer", name)
    photos, areas = (
        torch.rand(3, 3, 9, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        torch.full((3,), 0.1),
    )

    def function(s, rows=slice(None)):
        iteration = torch.full((len(s),), 3)
        given = {"photos": photos[rows], "area": areas[rows], "iteration": iteration, "site": None, "inside": 108}
        return offer(term, s, full=s, framed=s, **given)

    value = function(S)
    assert value.shape == (3,) and (value > 0).all()
    if not asks(term, "area"):  # which is 0 where the area asked is marked
        assert (function(torch.zeros_like(S)) == 0).all()
    torch.testing.assert_close(value, torch.cat([function(S[i : i + 1], slice(i, i + 1)) for i in range(3)]))
    assert torch.autograd.gradcheck(function, S.clone().requires_grad_())


@pytest.mark.parametrize("name", config.options("score"))
def test_score_contract(name):
    """(B,), rows independent, unmoved by a shift of all logits (but for the bare logit), gradient by finite differences."""
    score, untouched = config.option("score", name), LOGITS.flip(1)

    def function(logits, target, original=untouched):
        return offer(score, logits, target, original=original)

    value = function(LOGITS, TARGET)
    assert value.shape == (4,)
    rows = [function(*(x[i : i + 1] for x in (LOGITS, TARGET, untouched))) for i in range(4)]
    torch.testing.assert_close(value, torch.cat(rows))
    assert torch.allclose(value, function(LOGITS + 1, TARGET)) == (name != "logit")
    raised = LOGITS.clone()
    raised[range(4), TARGET] += 1
    if not asks(score, "original"):  # which look at more than the target
        assert (function(raised, TARGET) > value).all()
    assert torch.autograd.gradcheck(lambda x: function(x, TARGET), LOGITS.clone().requires_grad_())


def test_scores_by_another_route():
    p = torch.exp(LOGITS) / torch.exp(LOGITS).sum(1, keepdim=True)
    chosen = p[range(4), TARGET]
    torch.testing.assert_close(scores.probability(LOGITS, TARGET), chosen)
    torch.testing.assert_close(scores.log_odds(LOGITS, TARGET), torch.log(chosen / (1 - chosen)))
    best_other = torch.stack([max(v for i, v in enumerate(row) if i != t) for row, t in zip(LOGITS, TARGET)])
    torch.testing.assert_close(scores.contrastive(LOGITS, TARGET), LOGITS[range(4), TARGET] - best_other)


def test_tv_of_exponent_1_is_torchmetrics():
    options = {"beta": 1.0, "isotropic": False, "reduction": "sum", "cells": None}
    torch.testing.assert_close(regularizers.tv(S, **options), total_variation(S, reduction="none"))


def test_tv_by_hand():
    s = torch.tensor([[0.0, 0.5], [1.0, 1.0]])[None, None]
    options = {"beta": 3.0, "reduction": "sum", "cells": None}
    assert regularizers.tv(s, isotropic=False, **options).item() == pytest.approx(0.5**3 + 1**3 + 0.5**3)
    corner, right = (0.5**2 + 1**2) ** 1.5, 0.5**3
    assert regularizers.tv(s, isotropic=True, **options).item() == pytest.approx(corner + right)
    mean = regularizers.tv(s, 3.0, False, "mean", None).item()
    assert mean == pytest.approx((1**3 + 0.5**3) / 2 + 0.5**3 / 2)


@pytest.mark.parametrize("isotropic", [True, False])
def test_the_same_mask_costs_the_same_at_every_mask_size(isotropic):
    smooth = Grid((224, 224), 5, sigma=12.0)(torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(3)))
    costs = [
        [f(torch.nn.functional.avg_pool2d(smooth, 224 // n)).item() for n in (28, 56, 112, 224)]
        for f in (regularizers.l1, lambda s: regularizers.tv(s, isotropic=isotropic))
    ]
    for l1_or_tv in costs:
        assert max(l1_or_tv) / min(l1_or_tv) < 1.1


def test_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="reduction='avg' must be 'mean' or 'sum'"):
        regularizers.l1(S, reduction="avg")
