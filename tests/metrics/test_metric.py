"""The average of a metric over a dataset: its interval, its groups, its protocol, and what is kept of each row."""

import copy
import pickle
from functools import partial

import pytest
import torch
from scene import BOX, classifier, photos, place, random_maps, square, targets
from torch import nn

from mpx import Classifier, config
from mpx.metrics import Metric, average, measure, protocol, summarise
from mpx.metrics.curves import deletion
from mpx.metrics.regions import keypoints, mass, pointing


def test_the_mean_is_of_finite_rows_and_lies_in_its_interval():
    values = torch.tensor([0.0, 1.0, 1.0, 0.5, torch.nan])
    found = average(values)
    assert found["value"] == 0.625 and found["n"] == 4
    assert found["interval95"][0] < 0.625 < found["interval95"][1] and average(values) == found
    assert average(torch.tensor([torch.nan])) == {"value": None, "interval95": None, "n": 0}
    assert average(torch.tensor([0.3]))["interval95"] is None
    assert average(torch.full((5,), 0.25))["interval95"] == [0.25, 0.25]


def test_the_interval_covers_as_it_says():
    random = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(40):
        low, high = average(torch.rand(40, generator=random))["interval95"]
        inside += low <= 0.5 <= high
    assert 0.85 < inside / 40 <= 1
    low, high = average(torch.randn(400, generator=random))["interval95"]
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_the_mean_over_classes_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    hits, classes = torch.tensor([1, 0, 1, 1, 0, 1]), torch.tensor([7, 7, 7, 2, 2, 900])
    found = average(hits.float(), classes)
    assert found["value"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    pointed = torch.where(hits > 0, classes, classes.roll(3))  # a miss points at another class
    assert found["value"] == pytest.approx(metrics.balanced_accuracy_score(classes, pointed))


def test_a_class_that_a_draw_lacks_does_not_count_in_it():
    found = average(torch.ones(6), torch.tensor([0, 0, 0, 0, 0, 1]))
    assert found["value"] == 1 and found["interval95"] == [1, 1]


def test_batches_are_one_dataset():
    maps, where = random_maps(6), [place(), None, place((0, 0, 9, 9)), place(), place((1, 2, 3, 4)), None]
    whole, parts = Metric(mass), Metric(mass)
    whole.update(maps, places=where)
    for i in range(0, 6, 2):
        parts.update(maps[i : i + 2], places=where[i : i + 2])
    assert whole.compute() == parts.compute() and whole.compute()["n"] == 4
    assert whole.compute()["value"] == pytest.approx(mass(maps, where).nanmean().item())
    parts.reset()
    assert parts.compute() == {"value": None, "interval95": None, "n": 0}


def test_rows_measured_before_are_summarised_alike():
    maps, classes = random_maps(4), torch.tensor([0, 0, 1, 1])
    where = [place((0, 0, 2, 2)), place((20, 20, 32, 32)), place(), place((0, 0, 31, 31))]
    metric, again = Metric(pointing), Metric(pointing)
    metric.update(maps, places=where, targets=classes)
    columns = measure({"pointing": metric}, maps, places=where)
    assert list(columns) == ["pointing", "pointing_difficult"] and all(c.shape == (4,) for c in columns.values())
    again.add({"": columns["pointing"], "difficult": columns["pointing_difficult"]}, classes)
    assert again.compute() == metric.compute()
    assert summarise(pointing, {"": columns["pointing"]}, classes)["value"] == metric.compute()["value"]


def test_a_column_may_come_later():
    metric = Metric(keypoints)
    metric.update(square(), places=[place(points={"foot": (20, 12)})])
    metric.update(square(), places=[place(points={"eye": (3, 3)})])
    found = metric.compute()
    assert found["value"] == 0.5 and found["parts"]["eye"]["value"] == 0 and found["parts"]["foot"]["value"] == 1
    assert found["parts"]["eye"]["n"] == 1


def test_two_processes_hold_what_one_does():
    """As torchmetrics gathers over DDP: the states of both, one after the other."""
    maps, where = random_maps(4), [place()] * 4
    one, two = Metric(mass), Metric(mass)
    one.update(maps, places=where)
    halves = [{"values": [], "classes": []} for _ in range(2)]
    for rank, half in enumerate(halves):
        two.reset()
        two.update(maps[2 * rank : 2 * rank + 2], places=where[:2])
        half.update(values=torch.cat(two.values), classes=torch.cat(two.classes))
    two.values, two.classes = (torch.cat([half[name] for half in halves]) for name in ("values", "classes"))
    assert two.compute() == one.compute()


def test_a_metric_travels():
    metric = pickle.loads(pickle.dumps(Metric(config.option("metric", "iou"))))
    metric.update(square(), places=[place(BOX)])
    assert metric.compute()["value"] == 1


def test_what_is_missing_is_one_sentence():
    with pytest.raises(ValueError, match="deletion needs classifier and images and targets, not given here"):
        measure({"deletion": deletion}, square())


def test_every_number_says_its_protocol():
    for name in config.options("metric"):
        found = Metric(config.option("metric", name)).protocol
        assert found["function"].startswith("mpx.metrics.") and found["better"], name
    assert protocol(partial(deletion, step=5))["options"]["step"] == 5
    assert type(protocol(config.option("metric", "road"))["options"]["percentiles"]) is list


def test_a_function_of_ones_own():
    def brightness(saliency, images, gain: float = 2.0):
        return gain * (saliency * images).mean((1, 2, 3))

    metric = Metric(brightness)
    metric.update(square(), images=photos(1), classifier=classifier(), targets=targets(1))
    assert metric.compute()["n"] == 1 and metric.protocol["options"] == {"gain": 2.0}


def test_a_classifier_is_frozen_while_it_is_asked():
    """Batch norms of a network in training would see the metric's pictures, and learn from them."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    given = {"images": torch.rand(2, 3, 16, 16), "targets": torch.tensor([0, 1])}
    maps, wrapped, before = torch.rand(2, 1, 16, 16), Classifier(network), copy.deepcopy(network.state_dict())
    found = measure({"deletion": deletion}, maps, classifier=wrapped, **given)
    assert network.training and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with pytest.raises(ValueError, match="Sequential is in training mode"):
        measure({"deletion": deletion}, maps, classifier=network, **given)
    torch.testing.assert_close(measure({"deletion": deletion}, maps, classifier=wrapped.eval(), **given), found)


def test_the_rows_of_an_image_are_drawn_together():
    """Saying everything four times makes nothing surer."""
    values, classes = torch.rand(20, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    images = torch.arange(20)
    once, again = average(values, classes), average(*(x.repeat(4) for x in (values, classes, images)))
    assert again["interval95"] == pytest.approx(once["interval95"]) and again["n"] == 80
    assert average(torch.rand(8), images=torch.zeros(8))["interval95"] is None
    uneven = average(torch.tensor([0.0, 0.0, 0.0, 1.0]), images=torch.tensor([5, 5, 5, 2]))
    assert uneven["value"] == 0.25 and uneven["interval95"] == [0, 1]
