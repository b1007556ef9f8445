"""Rankings: the saliency of a finished mask. The mask stays the same; its evidence leads, and the rest orders its ties."""

import pytest
import torch
from planted import SquareNet, square_photo
from torch import nn

import mpx
from mpx import config, rankings
from mpx.config_schema import options
from mpx.explainers.base import ExplainerContext
from mpx.models.classifier import Classifier
from mpx.randomness import RowRandom

RANKINGS = options("ranking")
PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])
SEARCH = dict(mask_size=8, steps=12, lr=0.3, target=1)


torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), SquareNet()).eval()


def context(trajectory, classifier=None):
    photos = PHOTOS[: len(trajectory)]
    explainer_context = ExplainerContext(RowRandom([0] * len(photos)), ["a"] * len(photos))
    classifier = classifier or Classifier(NET, 0, 1)
    targets = torch.ones(len(photos), dtype=torch.long)
    return rankings.RankingContext(trajectory, photos, classifier, targets, explainer_context)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_the_mask_and_its_values_are_those_of_every_ranking(ranking):
    plain, ranked = (mpx.explain(Classifier(NET, 0, 1), PHOTOS, ranking=name, **SEARCH) for name in ("mask", ranking))
    for name in ("mask", "perturbed", "value_after", "area", "parameter"):
        assert torch.equal(getattr(plain, name), getattr(ranked, name)), name
    assert torch.equal(plain.saliency, plain.evidence)
    assert ranked.saliency.min() >= 0 and ranked.saliency.max() <= 1


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_batch_is_its_single_rows(ranking):
    options = dict(SEARCH, ranking=ranking, deterministic=True)
    together = mpx.explain(Classifier(NET, 0, 1), PHOTOS, **options)
    alone = [mpx.explain(Classifier(NET, 0, 1), photo, **options) for photo in PHOTOS]
    torch.testing.assert_close(together.saliency, torch.cat([e.saliency for e in alone]), atol=1e-5, rtol=0)
    assert [(e.passes, e.forwards) for e in alone] == list(zip(together.passes, together.forwards))


def test_a_layer_that_does_not_exist_is_that_of_the_ranking():
    zeros = torch.zeros(1, 1, 32, 32)
    with pytest.raises(ValueError, match="^ranking.layer='nolayer' is not a module"):
        rankings.prior(zeros, context(zeros), layer="nolayer")


@pytest.mark.parametrize("ranking", ["trajectory", "prior"])
def test_more_evidence_ranks_higher_and_ties_are_ordered_by_the_search(ranking):
    evidence, trajectory = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    evidence[..., :8], evidence[..., 8:16] = 1.0, 0.6
    trajectory[..., :4], trajectory[..., 16:24] = 0.9, 0.5
    flat = Classifier(nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), 0, 1)
    saliency = config.option("ranking", ranking)(evidence, context(trajectory, flat))[0, 0, 0]
    first, second, third, fourth, last = (saliency[k : k + 4].mean() for k in (0, 4, 8, 16, 24))
    assert 1 >= first > second > third > fourth > last


def test_a_prior_orders_ties_as_far_as_it_agrees_with_the_evidence():
    evidence, map_of_class = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    evidence[..., :4, :] = 1.0
    map_of_class[0, :, :4], map_of_class[1], map_of_class[2, :, 4:] = 1.0, 1.0, 1.0  # agrees, is flat, contradicts
    assert rankings.agreement(evidence, map_of_class).tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert rankings.agreement(evidence * 0, map_of_class).tolist() == [0, 0, 0]


def test_the_prior_leaves_the_network_as_it_was_and_an_empty_mask_empty():
    classifier = Classifier(NET, 0, 1)
    with classifier.frozen_and_folded(PHOTOS):
        before = classifier(PHOTOS).clone()
        nothing = torch.zeros(len(PHOTOS), 1, 32, 32)
        saliency = rankings.prior(nothing, context(nothing, classifier))
        assert torch.equal(classifier(PHOTOS), before)
    assert torch.equal(saliency, nothing)


def test_a_network_without_a_layer_for_grad_cam_is_ranked_by_the_mask_with_a_warning():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with pytest.warns(UserWarning, match="ranking=prior has no prior here"):
        explanation = mpx.explain(Classifier(network, 0, 1), PHOTOS[:1], **SEARCH)
    torch.testing.assert_close(explanation.saliency.amax(), explanation.evidence.amax())


@pytest.mark.parametrize("option", ["weight", "gain"])
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"ranking.{option}=-1.0 must be a finite number, at least 0"):
        config.part("ranking", "prior", **{option: -1.0})
