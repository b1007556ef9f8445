"""Greedy searches over regions: laws of the order, values by hand, and the optimum of all sets."""

import pytest
import torch
from explainers.scene import IMAGES, Checkers, explain, frozen

from mpx.data.images import read_image
from mpx.data.synthetic import synthetic
from mpx.explainers.base import ExplainerContext
from mpx.explainers.region_search import RegionPictures, all_sets, greedy_order, smdl, vps
from mpx.masks.superpixels import slic_labels
from mpx.models.synthetic import Synthetic
from mpx.randomness import RowRandom
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.similarity import Similarity

SYNTHETIC = 96  # px, the side of the smallest images


def is_monotone_and_submodular(values: torch.Tensor, count: int) -> bool:
    """Whether a region never lowers the value, and adds no more to a set than to any of its subsets."""
    cube = values.view([2] * count)  # an axis for each region
    gains = [cube.diff(dim=axis) for axis in range(count)]
    falls = [gains[a].diff(dim=b) for a in range(count) for b in range(count) if a != b]
    return all((gain > -1e-5).all() for gain in gains) and all((fall < 1e-5).all() for fall in falls)


def check_greedy_bound(values: torch.Tensor, order: list[int]) -> None:
    """The greedy set of each size gains at least 1 - 1/e of what the best does (Nemhauser, Wolsey & Fisher 1978)."""
    count, sets = len(order), all_sets(len(order))
    for k in range(1, count + 1):
        best = values[sets.sum(1) == k].max() - values[0]
        found = values[sum(2**i for i in order[:k])] - values[0]
        assert found >= (1 - 1 / torch.e) * best - 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_greedy_gains_a_share_of_the_optimum_of_a_submodular_value(seed):
    """Weighted coverage: each region covers some items, and a set's value is the weight of all items that it covers."""
    random, count = torch.Generator().manual_seed(seed), 9
    covers = torch.rand(count, 20, generator=random) < 0.25
    weights = torch.rand(20, generator=random)

    def value(sets):
        return ((sets.float() @ covers.float()) > 0).float() @ weights

    values = value(all_sets(count))
    assert is_monotone_and_submodular(values, count)
    check_greedy_bound(values, greedy_order(value, count))


def test_greedy_gains_a_share_of_the_optimum_on_synthetic_images(tmp_path):
    """Nine regions of whole cells, so that the value is submodular: the logarithm of 1 + the number of cells."""
    classifier = Synthetic(SYNTHETIC, task=Regression())
    with torch.no_grad():
        for item in synthetic(tmp_path, count=3, size=SYNTHETIC):
            image = classifier.preprocess(read_image(item.path, 3), 3)
            labels = torch.zeros(SYNTHETIC, SYNTHETIC, dtype=torch.long)
            for k, (y, x) in enumerate((classifier.network.corners(image[None])[0].amax(0) > 0.9).nonzero().tolist()):
                labels[y : y + 8, x : x + 8] = k % 9
            pictures = RegionPictures(image, torch.full_like(image, 0.5), labels, classifier, torch.tensor(0))

            def value(sets, pictures=pictures):
                return (1 + pictures.outputs(sets)[:, 0]).log()

            values = value(all_sets(9))
            assert is_monotone_and_submodular(values, 9) and values[-1] > 2
            check_greedy_bound(values, greedy_order(value, 9))


@pytest.mark.parametrize("pending", [None, 1, 3, 20])
def test_where_regions_add_up_both_searches_give_their_order(pending):
    weights = torch.randn(11, generator=torch.Generator().manual_seed(0))
    assert greedy_order(lambda sets: sets.float() @ weights, 11, pending) == weights.argsort(descending=True).tolist()


def test_the_search_from_both_ends_needs_fewer_values():
    counts = {}
    for pending in (None, 4):
        counts[pending] = 0

        def value(sets, pending=pending):
            counts[pending] += len(sets)
            return sets.float() @ torch.arange(40.0)

        greedy_order(value, 40, pending)
    assert counts[None] == 40 * 41 // 2 - 1 and counts[4] < 0.7 * counts[None]


def check_by_hand(relevance, image, network, target, regions, fill, value):
    """Each region is the best at its place: value(p alone, all p alone, p without, logits of each member), one by one."""
    labels = slic_labels(image, regions, 10.0, 0.0, adaptive=True)
    n = int(labels.max()) + 1
    ranks = torch.stack([relevance[labels == i].unique().squeeze() for i in range(n)])  # one number for a region
    torch.testing.assert_close(ranks.sort(descending=True).values, torch.arange(n, 0, -1) / n)
    order = ranks.argsort(descending=True).tolist()

    def answer(members):
        inside = torch.isin(labels, torch.tensor(members, dtype=torch.long))
        return network(torch.where(inside, image, fill)[None])[0]

    single = torch.stack([answer([i]) for i in range(n)])
    for k in range(n):
        values = {}
        for i in order[k:]:
            members = [*order[:k], i]
            alone, without = answer(members).softmax(0), answer([j for j in range(n) if j not in members]).softmax(0)
            values[i] = float(value(alone[target], alone, without[target], single[members]))
        assert values[order[k]] >= max(values.values()) - 1e-3


@torch.no_grad()
def test_vps_by_hand():
    classifier = frozen(Checkers())
    ours = explain("vps", classifier, IMAGES[:1], torch.tensor([1]), rows=(0,), regions=12, insertion=2.0, deletion=0.5)
    fill = torch.zeros(3, 1, 1)
    check_by_hand(ours[0, 0], IMAGES[0], classifier.network, 1, 12, fill, lambda p, _, q, __: 2 * p + 0.5 * (1 - q))


@torch.no_grad()
def test_smdl_by_hand():
    def value(p, all_p, q, logits):
        entropy = -(all_p * all_p.log()).sum() / torch.tensor(3.0).log()
        total = 2 * p + 3 * (1 - q) + 0.5 * (1 - entropy)
        directions = logits / logits.norm(dim=1, keepdim=True)
        angles = (directions @ directions.T).clamp(-1, 1).arccos() / torch.pi
        nearest = [min(angles[i, j] for j in range(len(logits)) if j != i) for i in range(len(logits)) if len(logits) > 1]
        return total + 0.7 * sum(nearest)

    classifier = frozen(Checkers())
    options = {"consistency": 2.0, "collaboration": 3.0, "confidence": 0.5, "effectiveness": 0.7, "pending": None}
    ours = explain("smdl", classifier, IMAGES[1:2], torch.tensor([0]), (0,), regions=12, color=0.4, **options)
    check_by_hand(ours[0, 0], IMAGES[1], classifier.network, 0, 12, torch.full((3, 1, 1), 0.4), value)


@pytest.mark.parametrize("explainer", [smdl, vps])
@pytest.mark.parametrize("task", [Multilabel(), Regression(), Similarity(texts=["amber", "basalt", "cedar", "delft"])])
def test_the_evidence_of_every_task_comes_first(explainer, task, tmp_path):
    item = synthetic(tmp_path, count=1, size=SYNTHETIC)[0]
    classifier = Synthetic(SYNTHETIC, task=task)
    image = classifier.preprocess(read_image(item.path, 3), 3)[None]
    output = classifier(image)
    index = torch.tensor([0 if isinstance(task, Regression) else int(output[0, :4].argmax())])
    target = classifier.task.prepare(index, output, classifier(torch.full_like(image, 0.5)))
    context = ExplainerContext(RowRandom([0]), ["a"])
    with classifier.frozen():
        relevance = explainer(image, classifier, target, context, regions=16, color=0.5)
    cells = classifier.network.pixels(image).amax(1) > 0.5
    assert relevance[:, 0][cells].mean() > relevance[:, 0][~cells].mean() + 0.1
