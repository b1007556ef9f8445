"""The contract of every metric in configs/metric/, on the synthetic dataset, whose evidence is known."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scene import columns, perturbations, summary
from scipy.ndimage import distance_transform_edt

from mpx import config
from mpx.data.annotations import Annotation
from mpx.data.images import read_image
from mpx.data.synthetic import NAMES, synthetic
from mpx.metrics.base import Metric, MetricContext, as_metric
from mpx.models.synthetic import Synthetic

ROWS = 6
CAPTUM = ("infidelity", "max_sensitivity")
METRICS = [name for name in config.options("metric") if name != "quantus"]  # another package's: tests/slow/test_quantus.py
FAST = {  # fewer images than by default
    "deletion": {"step": 1024},
    "insertion": {"step": 1024},
    "road": {"percentiles": [30, 70]},
    "infidelity": {"samples": 16},
    "max_box_acc_v2": {"levels": 20},
    "sets": {"levels": 16},
}


def fast_metric(name: str) -> Metric:
    return as_metric(partial(config.option("metric", name), **FAST.get(name, {})))


@dataclass
class Scene:
    model: object
    images: torch.Tensor
    targets: torch.Tensor
    annotations: list
    perfect: torch.Tensor  # (B,1,H,W) the evidence

    def random(self, rows=ROWS, seed=0):
        return torch.rand(rows, 1, *self.images.shape[2:], generator=torch.Generator().manual_seed(seed))

    def context(self, explain=None, rows=slice(None)) -> MetricContext:
        parts = {} if explain is None else {"explain": explain}
        return MetricContext(
            self.model, self.images[rows], self.targets[rows], annotations=self.annotations[rows],
            perturbations=perturbations(), **parts,
        )  # fmt: skip

    def chance(self) -> dict[str, float]:
        """The expected score of a map of independent uniform pixels, for metrics that have one."""
        share = self.perfect.mean((1, 2, 3))
        near = [(distance_transform_edt(~mask[0].bool().numpy()) < 15).mean() for mask in self.perfect]
        return {
            "mass": share.mean().item(), "iou": (share / (1 + share)).mean().item(), "keypoints": 0.5,
            "pointing": sum(near) / ROWS, "road": 0.0, "localisation": 1.0, "complexity": 1 / 3, "sanity": 0.0,
        }  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    model = Synthetic(gain=4.0).eval().requires_grad_(False)  # not saturated
    images, targets, annotations = [], [], []
    for item in synthetic(tmp_path_factory.mktemp("synthetic"), count=ROWS):
        region = item.regions[item.label]
        depth = distance_transform_edt(np.asarray(region.draw()))
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        region = replace(region, points={"part": (x + 0.5, y + 0.5)})  # well inside
        picture = read_image(item.path)
        images.append(model.preprocess(picture))
        targets.append(NAMES.index(item.label))
        annotations.append(Annotation(region, picture.size, model.preprocess))
    perfect = torch.stack([annotation.mask()[None].float() for annotation in annotations])
    return Scene(model, torch.stack(images), torch.tensor(targets), annotations, perfect)


def methods(scene):
    """Explainers: perfect follows the network, random differs each time, blind never looks at the network."""
    calls = iter(range(10**6))

    def perfect(classifier, images, targets, seed):
        same = classifier is scene.model and torch.equal(targets, scene.targets[: len(targets)])
        return scene.perfect[: len(images)] if same else scene.random(1, seed=7).expand(len(images), -1, -1, -1)

    return {
        "perfect": perfect,
        "random": lambda classifier, images, targets, seed: scene.random(len(images), seed=1000 + next(calls)),
        "blind": lambda classifier, images, targets, seed: scene.perfect[: len(images)],
    }


@pytest.mark.parametrize("name", METRICS)
def test_perfect_is_best_inverted_worst_and_random_is_chance(name, scene):
    if name in CAPTUM:
        pytest.importorskip("captum")
    metric = fast_metric(name)
    maps = {"perfect": scene.perfect, "random": scene.random(seed=3), "inverted": 1 - scene.perfect}
    if "explain" in metric.needs:
        ways = methods(scene)
        found = {
            kind: summary(metric, maps.get(kind, scene.perfect), scene.context(explain)) for kind, explain in ways.items()
        }
        if name == "sanity":
            found["inverted"] = found.pop("blind")  # a map that depends on nothing is worst
        else:
            found["inverted"] = found["random"]  # a map that differs each time is
    else:
        found = {kind: summary(metric, map, scene.context()) for kind, map in maps.items()}
    parts = metric.direction if isinstance(metric.direction, dict) else [""]
    for part in parts:
        way = metric.direction_of(part)
        if way == "none":
            continue
        value = {kind: result if part == "" else result["parts"][part] for kind, result in found.items()}
        value = {kind: v["value"] for kind, v in value.items()}
        if None in value.values():  # no row has a value, such as for difficult regions
            continue
        bad = {k: abs(v) if way == "near 0" else v if way == "lower" else -v for k, v in value.items()}
        assert bad["perfect"] <= bad["random"] + 0.03 and bad["random"] <= bad["inverted"] + 0.03, (part, value)
        assert part or bad["perfect"] < bad["inverted"], value
    if name in scene.chance():
        low, high = found["random"]["interval95"]
        assert low - 0.05 <= scene.chance()[name] <= high + 0.05, found["random"]


BEST = {
    **{"mass": 1, "iou": 1, "pointing": 1, "keypoints": 1, "localisation": 0, "max_box_acc_v2": 1},
    **{"normalised_drop": 1, "minimality": 32**2 / 128**2, "cross_perturbation": 1},
}


@pytest.mark.parametrize("name", BEST)
def test_the_best_possible_value(name, scene):
    assert summary(fast_metric(name), scene.perfect, scene.context())["value"] == pytest.approx(BEST[name], abs=0.05)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in CAPTUM])
def test_rows_do_not_depend_on_each_other(name, scene):
    metric, maps = fast_metric(name), scene.random(2, seed=5)
    if "explain" in metric.needs:
        pytest.skip("explains rows again, see test_sanity.py")
    together = columns(metric, maps, scene.context(rows=slice(3, 5)))
    alone = columns(metric, maps[1:], scene.context(rows=slice(4, 5)))
    assert together.keys() == alone.keys()
    for suffix, values in together.items():
        assert np.allclose(values[1:], alone[suffix], atol=1e-5, equal_nan=True), suffix


@pytest.mark.parametrize("name", config.options("metric"))
def test_yaml_options_are_the_functions_defaults(name):
    function = config.option("metric", name)
    assert as_metric(function).options == as_metric(function.func).options


@pytest.mark.parametrize("name", METRICS)
def test_an_impossible_option_is_refused_before_any_mask(name, scene):
    """A number that the check of a built metric lets pass does not fail once there are masks."""
    if name in CAPTUM:
        pytest.importorskip("captum")
    metric, explain = fast_metric(name), methods(scene)["perfect"]
    numeric = [key for key, value in metric.options.items() if isinstance(value, (int, float, type(None), list))]
    for key, value in product(numeric, (-1, 0, float("nan"), [0])):
        try:
            built = as_metric(partial(metric.function, **{key: value}))
        except ValueError as error:
            assert f"metric.{key}={value} must be" in str(error)
        else:
            assert value == 0 or value == -1, f"{key}={value} is accepted"
            built(scene.perfect[:1], scene.context(explain, slice(0, 1)))


def test_a_metric_that_returns_no_number_for_each_row_is_refused():
    maps = torch.rand(2, 1, 8, 8)
    context = MetricContext(lambda x: x.mean((2, 3)), torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="returned float"):
        as_metric(lambda saliency, context: 0.5)(maps, context)
    with pytest.raises(ValueError, match=r"must return \(B,\) = \(2,\)"):
        as_metric(lambda saliency, context: saliency)(maps, context)
