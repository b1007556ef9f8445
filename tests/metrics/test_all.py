"""All metrics at once, by the files in configs/metric: perfect maps are best, inverted ones worst, random ones by chance."""

import pytest
import torch
from planted import SquareNet
from scene import SIDE, perturbations, photos, place, random_maps, square

from mpx import config
from mpx.metrics import Metric
from mpx.models.classifier import Classifier
from mpx.operators import asks

ROWS = 8
SHARE = 64 / SIDE**2
near = sum(
    min((x + 0.5 - a) ** 2 + (y + 0.5 - b) ** 2 for a in (16.5, 23.5, min(max(x + 0.5, 16.5), 23.5))
        for b in (8.5, 15.5, min(max(y + 0.5, 8.5), 15.5))) < 15**2
    for x in range(SIDE) for y in range(SIDE)
) / SIDE**2  # fmt: skip
# what a map of independent uniform pixels scores, where it can be said
CHANCE = {
    "mass": SHARE, "iou": 32 / (512 + 32), "keypoints": 0.5, "pointing": near, "road": 0.0, "localisation": 1.0,
    "complexity": 1 / 3, "sanity": 0.0,
}  # fmt: skip
CAPTUM = ("infidelity", "max_sensitivity")


@pytest.fixture(scope="module")
def model():
    return Classifier(SquareNet(gain=2.0), mean=0.5, std=0.25).eval().requires_grad_(False)  # not saturated


def score(name, saliency, model, explain=None, rows=slice(None)):
    images = photos(ROWS)[rows]
    metric = Metric(config.option("metric", name))
    metric.update(
        saliency, classifier=model, images=images, targets=torch.ones(len(images), dtype=torch.long), explain=explain,
        places=[place(points={"part": (20.0, 12.0)})] * len(images), perturbations=perturbations(),
    )  # fmt: skip
    return metric


def methods(model):
    """Ways to explain: by what the network looks at, the same each time; at random; and blind to the network."""
    calls = iter(range(10**6))

    def perfect(classifier, images, targets, seed):
        same = classifier is model and (targets == 1).all()
        return (square() if same else random_maps(1, seed=7)).expand(len(images), -1, -1, -1)

    return {
        "perfect": perfect,
        "random": lambda classifier, images, targets, seed: random_maps(len(images), seed=1000 + next(calls)),
        "blind": lambda classifier, images, targets, seed: square().expand(len(images), -1, -1, -1),
    }


@pytest.mark.parametrize("name", config.options("metric"))
def test_perfect_is_best_inverted_worst_and_random_is_chance(name, model):
    if name in CAPTUM:
        pytest.importorskip("captum")
    best = square().expand(ROWS, -1, -1, -1)
    maps = {"perfect": best, "random": random_maps(ROWS, seed=3), "inverted": 1 - best}
    if asks(config.option("metric", name).func, "explain"):
        ways = methods(model)
        metrics = {kind: score(name, maps.get(kind, best), model, ways[kind]) for kind in ways}
        if name == "sanity":
            metrics["inverted"] = metrics.pop("blind")  # what depends on nothing is worst
        else:
            metrics["inverted"] = metrics["random"]  # what says otherwise each time is
    else:
        metrics = {kind: score(name, map, model) for kind, map in maps.items()}
    found = {kind: metric.compute() for kind, metric in metrics.items()}
    better = metrics["perfect"].protocol["better"]
    for part, way in better.items() if isinstance(better, dict) else [("", better)]:
        value = {kind: result if part == "" else result["parts"][part] for kind, result in found.items()}
        value = {kind: v["value"] for kind, v in value.items()}
        bad = {k: abs(v) if way == "near 0" else v if way == "lower" else -v for k, v in value.items()}
        assert bad["perfect"] <= bad["random"] + 0.03 and bad["random"] <= bad["inverted"] + 0.03, (part, value)
        assert part or bad["perfect"] < bad["inverted"], value
    if name in CHANCE:
        low, high = found["random"]["interval95"]
        assert low - 0.05 <= CHANCE[name] <= high + 0.05, found["random"]


def test_the_best_possible_values(model):
    best = square().expand(ROWS, -1, -1, -1)
    for name, value in {
        **{"mass": 1, "iou": 1, "pointing": 1, "keypoints": 1, "localisation": 0, "max_box_acc_v2": 1},
        **{"normalised_drop": 1, "minimality": SHARE, "crossed": 1},
    }.items():
        assert score(name, best, model).compute()["value"] == pytest.approx(value, abs=1e-3), name


def test_rows_do_not_depend_on_each_other(model):
    maps = random_maps(ROWS, seed=5)
    for name in config.options("metric"):
        if asks(config.option("metric", name).func, "explain") or name in CAPTUM:  # tested by themselves
            continue
        together, alone = score(name, maps, model), score(name, maps[4:5], model, rows=slice(4, 5))
        assert together.columns == alone.columns
        assert torch.allclose(torch.cat(together.values)[4:5], torch.cat(alone.values), atol=1e-5, equal_nan=True), name
