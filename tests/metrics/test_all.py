"""All metrics at once, by the files in configs/metric, on the synthetic dataset, whose evidence is known.

Perfect maps are best, inverted ones worst, random ones score by chance.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scene import perturbations
from scipy.ndimage import distance_transform_edt

from mpx import config
from mpx.data.annotations import Annotation
from mpx.data.images import read_image
from mpx.data.synthetic import NAMES, synthetic
from mpx.metrics import Metric
from mpx.models.synthetic import synthetic as network
from mpx.parts import asks

ROWS = 6
CAPTUM = ("infidelity", "max_sensitivity")


@dataclass
class Scene:
    model: object
    images: torch.Tensor
    targets: torch.Tensor
    places: list
    perfect: torch.Tensor  # (B,1,H,W) the evidence

    def random(self, rows=ROWS, seed=0):
        return torch.rand(rows, 1, *self.images.shape[2:], generator=torch.Generator().manual_seed(seed))

    def score(self, name, saliency, explain=None, rows=slice(None)):
        metric = Metric(config.option("metric", name))
        metric.update(
            saliency, classifier=self.model, images=self.images[rows], targets=self.targets[rows], explain=explain,
            places=self.places[rows], perturbations=perturbations(),
        )  # fmt: skip
        return metric

    def chance(self) -> dict[str, float]:
        """What a map of independent uniform pixels scores, where it can be said."""
        share = self.perfect.mean((1, 2, 3))
        near = [(distance_transform_edt(~mask[0].bool().numpy()) < 15).mean() for mask in self.perfect]
        return {
            "mass": share.mean().item(), "iou": (share / (1 + share)).mean().item(), "keypoints": 0.5,
            "pointing": sum(near) / ROWS, "road": 0.0, "localisation": 1.0, "complexity": 1 / 3, "sanity": 0.0,
        }  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    model = network(gain=4.0).eval().requires_grad_(False)  # not saturated
    images, targets, places = [], [], []
    for item in synthetic(tmp_path_factory.mktemp("synthetic"), count=ROWS):
        region = item.regions[item.label]
        depth = distance_transform_edt(np.asarray(region.draw()))
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        region = replace(region, points={"part": (x + 0.5, y + 0.5)})  # well inside
        picture = read_image(item.path)
        images.append(model.preprocess(picture))
        targets.append(NAMES.index(item.label))
        places.append(Annotation(region, picture.size, model.preprocess))
    perfect = torch.stack([place.mask()[None].float() for place in places])
    return Scene(model, torch.stack(images), torch.tensor(targets), places, perfect)


def methods(scene):
    """Ways to explain: by what the network looks at, the same each time; at random; and blind to the network."""
    calls = iter(range(10**6))

    def perfect(classifier, images, targets, seed):
        same = classifier is scene.model and torch.equal(targets, scene.targets[: len(targets)])
        return scene.perfect[: len(images)] if same else scene.random(1, seed=7).expand(len(images), -1, -1, -1)

    return {
        "perfect": perfect,
        "random": lambda classifier, images, targets, seed: scene.random(len(images), seed=1000 + next(calls)),
        "blind": lambda classifier, images, targets, seed: scene.perfect[: len(images)],
    }


@pytest.mark.parametrize("name", config.options("metric"))
def test_perfect_is_best_inverted_worst_and_random_is_chance(name, scene):
    if name in CAPTUM:
        pytest.importorskip("captum")
    maps = {"perfect": scene.perfect, "random": scene.random(seed=3), "inverted": 1 - scene.perfect}
    if asks(config.option("metric", name).func, "explain"):
        ways = methods(scene)
        metrics = {kind: scene.score(name, maps.get(kind, scene.perfect), ways[kind]) for kind in ways}
        if name == "sanity":
            metrics["inverted"] = metrics.pop("blind")  # what depends on nothing is worst
        else:
            metrics["inverted"] = metrics["random"]  # what says otherwise each time is
    else:
        metrics = {kind: scene.score(name, map) for kind, map in maps.items()}
    found = {kind: metric.compute() for kind, metric in metrics.items()}
    better = metrics["perfect"].protocol["better"]
    for part, way in better.items() if isinstance(better, dict) else [("", better)]:
        value = {kind: result if part == "" else result["parts"][part] for kind, result in found.items()}
        value = {kind: v["value"] for kind, v in value.items()}
        if None in value.values():  # nothing that is asked for, as a difficult region
            continue
        bad = {k: abs(v) if way == "near 0" else v if way == "lower" else -v for k, v in value.items()}
        assert bad["perfect"] <= bad["random"] + 0.03 and bad["random"] <= bad["inverted"] + 0.03, (part, value)
        assert part or bad["perfect"] < bad["inverted"], value
    if name in scene.chance():
        low, high = found["random"]["interval95"]
        assert low - 0.05 <= scene.chance()[name] <= high + 0.05, found["random"]


def test_the_best_possible_values(scene):
    for name, value in {
        **{"mass": 1, "iou": 1, "pointing": 1, "keypoints": 1, "localisation": 0, "max_box_acc_v2": 1},
        **{"normalised_drop": 1, "minimality": 32**2 / 128**2, "crossed": 1},
    }.items():
        assert scene.score(name, scene.perfect).compute()["value"] == pytest.approx(value, abs=0.05), name


def test_rows_do_not_depend_on_each_other(scene):
    maps = scene.random(seed=5)
    for name in config.options("metric"):
        if asks(config.option("metric", name).func, "explain") or name in CAPTUM:  # tested by themselves
            continue
        together, alone = scene.score(name, maps), scene.score(name, maps[4:5], rows=slice(4, 5))
        assert together.columns == alone.columns
        assert torch.allclose(torch.cat(together.values)[4:5], torch.cat(alone.values), atol=1e-5, equal_nan=True), name
