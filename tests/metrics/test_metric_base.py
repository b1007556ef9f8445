"""The contract of a metric: declarations, what is missing, protocol, and the frozen classifier."""

import copy
import pickle
from functools import partial

import pytest
import torch
from scene import annotation, context, random_maps, square, summary
from torch import nn

from mpx import Classifier, config
from mpx.config_plan import compose_plan
from mpx.metrics.base import MetricContext, _declarations, as_metric, measure, metric
from mpx.metrics.deletion_insertion import deletion
from mpx.metrics.keypoints import keypoints
from mpx.metrics.mass import mass
from mpx.metrics.pointing import pointing
from mpx.operators import unwrap


def test_columns_are_metric_and_suffix():
    columns = measure({"hits": pointing}, random_maps(2), context(annotations=[annotation()] * 2))
    assert list(columns) == ["hits", "hits_difficult"] and all(values.shape == (2,) for values in columns.values())


def test_rows_without_a_value_do_not_count():
    annotations = [annotation(), None, annotation((0, 0, 9, 9)), annotation(), annotation((1, 2, 3, 4)), None]
    rows, maps = context(6, annotations=annotations), random_maps(6)
    result = summary(mass, maps, rows)
    assert result["n"] == 4 and result["value"] == pytest.approx(mass(maps, rows).nanmean().item())
    assert summary(mass, square(), context(1, annotations=[None])) == {"value": None, "interval95": None, "n": 0}


def test_every_suffix_has_a_mean():
    annotations = [annotation(points={"foot": (20, 12)}), annotation(points={"eye": (3, 3)})]
    result = summary(keypoints, square().expand(2, -1, -1, -1), context(annotations=annotations))
    assert result["value"] == 0.5 and result["parts"]["eye"]["value"] == 0 and result["parts"]["foot"]["value"] == 1
    assert result["parts"]["eye"]["n"] == 1


def test_a_metric_can_be_pickled():
    loaded = pickle.loads(pickle.dumps(as_metric(config.option("metric", "iou"))))
    assert summary(loaded, square(), context(1, annotations=[annotation()]))["value"] == 1


def test_a_missing_part_of_the_context_is_one_sentence():
    for name, missing in {"pointing": "annotations", "normalised_drop": "perturbations", "sanity": "explain"}.items():
        with pytest.raises(ValueError, match=f"{name} needs {missing}, which is missing here"):
            as_metric(config.option("metric", name))(square(), context(1))


def test_every_metric_is_declared_and_has_its_protocol():
    for name in config.options("metric"):
        result = as_metric(config.option("metric", name))
        assert result.protocol["function"].startswith("mpx.metrics.") and unwrap(result.function) in _declarations, name
    assert as_metric(partial(deletion, step=5)).protocol["options"]["step"] == 5
    assert type(as_metric(config.option("metric", "road")).options["percentiles"]) is list


def test_an_undecorated_function_is_a_metric_without_direction():
    def brightness(saliency, context, gain: float = 2.0):
        return gain * (saliency * context.images).mean((1, 2, 3))

    result = as_metric(partial(brightness, gain=3.0))
    assert result.direction_of("") == "none" and result.options == {"gain": 3.0}
    assert summary(result, square(), context(1))["n"] == 1


def test_directions_and_needs_are_checked_when_declared():
    with pytest.raises(ValueError, match="'up' must be one of higher, lower, near 0, none"):
        metric(direction={"": "up"})(lambda saliency, context: saliency)
    with pytest.raises(ValueError, match="'places' must be one of annotations"):
        metric(needs=("places",))(lambda saliency, context: saliency)


def test_a_classifier_is_frozen_meanwhile():
    """Batch norms of a network in training would learn from the metric's images."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images, targets, maps = torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), torch.rand(2, 1, 16, 16)
    wrapped, before = Classifier(network), copy.deepcopy(network.state_dict())
    values = measure({"deletion": deletion}, maps, MetricContext(wrapped, images, targets))
    assert network.training and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with pytest.raises(ValueError, match="Sequential is in training mode"):
        measure({"deletion": deletion}, maps, MetricContext(network, images, targets))
    torch.testing.assert_close(measure({"deletion": deletion}, maps, MetricContext(wrapped.eval(), images, targets)), values)


def test_a_package_that_is_missing_is_told_when_the_parts_of_a_run_are_built(monkeypatch):
    monkeypatch.setattr("mpx.metrics.base.find_spec", lambda module: None)
    for name, package in (("infidelity", "mpx.baselines."), ("quantus", "quantus")):
        with pytest.raises(ValueError, match=f'metric={name} needs a package .*: pip install "{package}"'):
            compose_plan(f"metric={name}")
    compose_plan("metric=deletion")
