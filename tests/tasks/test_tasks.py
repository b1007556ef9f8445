"""Laws of every task: its evidence is found, its metrics rank maps, and its numbers are those of the definition."""

from functools import partial

import numpy as np
import pytest
import torch
from metrics.scene import perturbations
from task_networks import AMBER, MAIN, SIDE, TASKS, VARIANTS, Binary, Queries, SegmentDict, alone, photos
from torch import nn

from mpx import config, explain
from mpx.data.targets import TargetContext
from mpx.metrics.base import MetricContext, as_metric
from mpx.models import Classifier
from mpx.models.synthetic import Boxes, Classes, Labels
from mpx.pictures.colours import outlined
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.difference import Difference
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

PHOTOS = photos()
EYE = torch.eye(3)
BLUR = partial(config.option("perturbation", "blur_gaussian"), sigma=5.0)
OPTIONS = dict(perturbation=BLUR, mask_size=12, steps=20, lr=0.3, jitter=0, frames=2)
ONE_EMBEDDING = dict(lambda_l1=0.02, lambda_tv=0.01)  # a cosine similarity changes by 0.1 at most


def explained(name, rows=slice(None), **options):
    one = TASKS[name]
    weights = ONE_EMBEDDING if name == "similarity" else {}
    return explain(one.classifier, one.photos[rows], one.target, **OPTIONS | weights | options)


METRIC_OPTIONS = {  # fewer images than by default, or what a small image needs
    "pointing": {"tolerance": 5.0},
    "deletion": {"step": 1024},
    "insertion": {"step": 1024},
    "road": {"percentiles": [50]},
}
RANKED = [  # metrics of single maps whose values are of single rows
    "average_drop", "complexity", "cross_perturbation", "deletion", "insertion", "iou", "mass", "minimality",
    "normalised_drop", "pointing", "representativeness", "road", "saliency_metric",
]  # fmt: skip
PLACED_OR_NO_PROBABILITY = ("regression", "segmentation", "detection", "similarity")


def applies(metric, name):
    if metric == "saliency_metric":
        return not name.startswith(PLACED_OR_NO_PROBABILITY) or name == "similarity_texts"
    return metric != "sanity" or not name.startswith(PLACED_OR_NO_PROBABILITY) or name == "similarity_texts"


def resolved(task, target, output, categories=None):
    return task.resolve(target, output, TargetContext(categories))


@torch.no_grad()
def metric_context(one):
    task = one.classifier.task
    targets = resolved(task, one.target or 0, one.classifier(one.photos[:1])[0], one.classifier.categories)
    return MetricContext(
        one.classifier, one.photos[:1], torch.tensor([t.index for t in targets]), annotations=one.annotations[:1], task=task,
        perturbations=perturbations(), explain=lambda classifier, images, targets, seed: one.evidence[:1].float(),
    )  # fmt: skip


@pytest.mark.parametrize("name", MAIN)
def test_perfect_is_best_and_inverted_worst_under_every_metric(name):
    """And a disc in the centre is in between; metrics that do not apply say so."""
    one = TASKS[name]
    one.classifier.eval()
    context, perfect = metric_context(one), one.evidence[:1].float()
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    disc = torch.exp(-2 * (x**2 + y**2)).expand_as(perfect)
    for metric in [*RANKED, "sanity"]:
        function = as_metric(partial(config.option("metric", metric), **METRIC_OPTIONS.get(metric, {})))
        if not applies(metric, name):
            with pytest.raises(ValueError, match="leave it out") as error:
                function(perfect, context)
            assert "\n" not in str(error.value)
        elif metric in RANKED:
            maps = {"perfect": perfect, "disc": disc, "inverted": 1 - perfect}
            value = {kind: function(map, context)[""].item() for kind, map in maps.items()}
            bad = {kind: v if function.direction_of("") == "lower" else -v for kind, v in value.items()}
            assert bad["perfect"] < bad["inverted"], (metric, value)
            assert bad["perfect"] < bad["disc"], (metric, value)
            # the tightest crop around an inverted map is the whole image
            assert bad["disc"] < bad["inverted"] or metric in ("pointing", "saliency_metric"), (metric, value)


def contrast(explanation, evidence):
    """The mean saliency (B,) within the evidence, in units of that outside."""
    means = []
    for part in (evidence, ~evidence):
        means.append((explanation.saliency * part).sum((1, 2, 3)) / part.sum((1, 2, 3)))
    return means[0] / means[1].clamp(min=1e-6)


@pytest.mark.parametrize("name", config.options("task"))
def test_every_option_is_a_task(name, tmp_path):
    np.save(tmp_path / "texts.npy", EYE)
    more = [f"task.embeddings={tmp_path}/texts.npy"] if name == "similarity" else []
    task = config.task(name, *more)
    output = torch.rand(2, 3, 4, 4) if name == "segmentation" else torch.rand(2, 5, 6).round(decimals=1)
    output = output if name in ("segmentation", "detection") else torch.rand(2, 3)
    targets = torch.tensor([0, 2])
    if name == "detection":
        output[..., 4] = torch.tensor([0, 0, 2, 2, 2])
    prepared = task.prepare(targets, output, 1 - output)
    for numbers in (task.support(output, prepared), task.value(output, prepared), task.logit(output, prepared)):
        assert numbers.shape == (2,) and numbers.isfinite().all()
    bounds = task.low - 1e-5, task.high + 1e-5
    assert ((bounds[0] <= task.value(output, prepared)) & (task.value(output, prepared) <= bounds[1])).all()


SINGLE = ("deletion", "preservation")  # a dual is both at once, so each task has one of these besides


@pytest.mark.parametrize(
    "name, game",
    [
        *((name, game) for number, name in enumerate(MAIN) for game in ("dual", SINGLE[number % 2])),
        *((name, "deletion") for name in VARIANTS),
    ],
)
def test_the_evidence_is_found(name, game):
    e = explained(name, slice(0, 1), game=game)
    assert (contrast(e, TASKS[name].evidence[:1]) > 4).all() and (e.area < 0.35).all()
    assert (e.value_normalised < 0.2).all() if game != "preservation" else (e.value_normalised > 0.8).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_its_single_runs(name):
    together, singles = explained(name, steps=5), [explained(name, slice(i, i + 1), steps=5) for i in range(2)]
    torch.testing.assert_close(together.saliency, torch.cat([e.saliency for e in singles]), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.value_before, torch.cat([e.value_before for e in singles]))


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_the_support_is_that_of_finite_differences(name):
    one = TASKS[name]
    net, task = one.classifier.network, one.classifier.task
    photo = one.photos[:1]
    with torch.no_grad():
        output = task.output(net(photo), 1)
        targets = torch.tensor([t.index for t in resolved(task, one.target or 0, output[0], one.classifier.categories)])
        targets = task.prepare(targets, output, task.output(net(torch.full_like(photo, 0.5)), 1)).double()
        targets = targets if task.prepares and targets.ndim == 2 and not isinstance(task, Difference) else targets.long()
    net = net.double()
    photo = photo.double()

    def support(amount):  # of the photo, faded to grey
        return task.support(task.output(net(0.5 + amount * (photo - 0.5)), 1), targets)

    amount = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(support(amount).sum(), amount)[0]
    step = 1e-6
    assert gradient.item() == pytest.approx(((support(0.7 + step) - support(0.7 - step)) / (2 * step)).item(), rel=1e-3)
    assert gradient > 0
    net.float()


@pytest.mark.parametrize("explainer", ["gradient", "integrated_gradients", "occlusion", "rise"])
@pytest.mark.parametrize("name", ["multilabel", "regression", "segmentation", "detection", "similarity_texts"])
def test_explainers_ask_the_task(name, explainer):
    small = {"occlusion": dict(patch=24, stride=8), "rise": dict(masks=200, cells=4)}.get(explainer, {})
    alone = slice(1, 2)  # another shape is evidence against amber, which a gradient shows too
    e = explained(name, alone, explainer=partial(config.option("explainer", explainer), **small))
    assert (contrast(e, TASKS[name].evidence[alone]) > (1.2 if explainer == "rise" else 3)).all()


@pytest.mark.parametrize("name", TASKS)
def test_the_highest_answers_are_listed_with_the_target_s_value(name):
    e = explained(name, slice(0, 1), steps=1)
    answers = e.answers_before, e.answers_after, e.answers_complement
    values = zip(answers, (e.value_before, e.value_after, e.value_complement))
    for answers, value in values:
        for row, of_row in enumerate(answers):
            values = [answer.value for answer in of_row]
            assert values == sorted(values, reverse=True) and len(values) <= 5
            assert [a.value for a in of_row if a.is_target] == ([pytest.approx(value[row].item())] if of_row else [])
    has_answers = not name.startswith(("regression", "segmentation", "detection")) and name != "similarity"
    assert all(map(bool, e.answers_before)) == has_answers


def test_yes_and_no_are_one():
    output = Multilabel().output(torch.tensor([[0.3], [-2.0]]), 2)
    both = [Multilabel().support(output, torch.tensor([answer] * 2)) for answer in (0, 1)]
    torch.testing.assert_close(sum(both), torch.ones(2))
    torch.testing.assert_close(both[1], torch.tensor([0.3, -2.0]).sigmoid())
    sigmoids = Multilabel(probabilities=True).output(torch.tensor([[0.3], [-2.0]]).sigmoid(), 2)
    torch.testing.assert_close(sigmoids, output)


def test_a_value_is_1_at_the_image_and_0_perturbed():
    output, reference, targets = torch.tensor([[30.0], [10.0]]), torch.tensor([[20.0], [20.0]]), torch.tensor([0, 0])
    for direction, expected in ("up", [1, -1]), ("down", [-1, 1]), ("stay", [1, 1]):
        task = Regression(direction)
        prepared = task.prepare(targets, output, reference)
        assert task.support(output, prepared).tolist() == expected
        assert task.support(reference, prepared).tolist() == [0, 0]
        assert task.value(output, prepared).tolist() == [30, 10]
    prepared = Regression("stay").prepare(targets, output, reference)
    assert Regression("stay").support(torch.tensor([[35.0], [5.0]]), prepared).tolist() == [0.5, 0.5]
    nothing = Regression().prepare(targets, output, output)
    assert Regression().support(output, nothing).tolist() == [0, 0]


def test_segmentation_of_one_pixel_is_classification():
    logits, targets = torch.randn(4, 5, 1, 1), torch.tensor([0, 1, 2, 4])
    task = Segmentation("image")
    expected = CLASSIFICATION.support(logits[..., 0, 0], targets)
    torch.testing.assert_close(task.support(logits, task.prepare(targets, logits)), expected)


def test_the_mean_over_a_region():
    logits, targets = torch.randn(2, 3, 4, 6), torch.tensor([1, 2])
    task = Segmentation([0.5, 0.0, 1.0, 0.5])
    p = logits.softmax(1)[:, :, :2, 3:].mean((2, 3))
    prepared = task.prepare(targets, logits)
    torch.testing.assert_close(task.support(logits, prepared), p[range(2), targets])
    torch.testing.assert_close(task.logit(logits, prepared), logits[:, :, :2, 3:].mean((2, 3))[range(2), targets])
    predicted = Segmentation().prepare(logits.argmax(1)[:, 0, 0], logits)[:, 2:].view(2, 4, 6)
    assert torch.equal(predicted.bool(), logits.argmax(1) == logits.argmax(1)[:, :1, :1])


def test_two_kinds_of_detectors_agree():
    a, b = (alone(kind, Detection())(PHOTOS) for kind in (Boxes, Queries))
    assert [resolved(Detection(), "top1", x[0])[0].index for x in (a, b)] == [AMBER, AMBER]
    boxes = [Detection().prepare(torch.tensor([AMBER] * 2), x)[:, 1:] for x in (a, b)]
    torch.testing.assert_close(boxes[0], boxes[1] * SIDE)


def test_support_is_overlap_times_score():
    detections = torch.tensor([[[0.0, 0, 10, 10, 3, 0.8], [5, 0, 15, 10, 3, 0.6], [0, 0, 10, 10, 4, 0.9]]])
    task = Detection()
    objects = resolved(task, ["top1", 3, "top3", "top2"], detections[0])
    assert [one.key for one in objects] == ["4", "3", "3#2"]
    first, second = (task.prepare(torch.tensor([3]), detections, places=one.place[None]) for one in objects[1:])
    assert torch.equal(first, task.prepare(torch.tensor([3]), detections))
    assert second[0].tolist() == [3, 5, 0, 15, 10]
    moved = detections.clone()
    moved[0, 0, [0, 2]] += 5  # the first box moves onto the second: overlap 1/3
    assert task.support(detections, first).item() == pytest.approx(0.8, abs=1e-5)
    assert task.support(moved, first).item() == pytest.approx(0.8 / 3, abs=1e-5)
    assert task.support(moved[:, 2:], first).item() < 1e-5  # another class


def test_regions_are_where_the_target_is():
    for name in ("segmentation", "segmentation_dict"):
        assert torch.equal(explained(name, steps=2).region, TASKS[name].evidence), name
    for name in ("detection", "detection_queries"):
        region = explained(name, steps=2).region[0, 0]
        x0, y0, x1, y1 = (int(side) for side in TASKS[name].annotations[0].boxes()[0])
        assert region[y0:y1, x0:x1].all() and region.sum() == (y1 - y0) * (x1 - x0), name
    assert explained("multilabel", steps=2).region is None
    square = torch.zeros(1, 32, 32, dtype=torch.bool)
    square[:, 8:16, 16:24] = True
    image = outlined(torch.full((3, 32, 32), 0.5), square, 1)
    assert (image != 0.5).any(0).sum() == 8 * 8 - 4 * 4 and torch.equal(image[:, 8, 16], torch.tensor([1.0, 0.85, 0.1]))


def test_similarity_is_the_cosine_and_clips_softmax():
    vectors = torch.randn(2, 3)
    task = Similarity(EYE[1])
    cosine = torch.nn.functional.cosine_similarity(vectors, EYE[1:2])
    torch.testing.assert_close(task.support(task.output(vectors, 2), torch.tensor([0, 0])), cosine)
    several = Similarity(EYE, scale=5.0)
    p = (5 * torch.nn.functional.normalize(vectors, dim=1)).softmax(1)
    torch.testing.assert_close(several.support(several.output(vectors, 2), torch.tensor([0, 2])), p[range(2), [0, 2]])


def test_a_difference_is_classification_of_two_classes():
    logits, targets = torch.randn(4, 6), torch.tensor([0, 1, 2, 3])
    task = Difference(other=5)
    pair = torch.stack([logits[range(4), targets], logits[:, 5]], 1)
    torch.testing.assert_close(task.support(logits, task.prepare(targets, logits)), pair.softmax(1)[:, 0])
    others = Difference().prepare(logits.argmax(1), logits)[:, 1]
    assert torch.equal(others, logits.topk(2).indices[:, 1])


def test_a_function_is_a_target():
    net = TASKS["classification"].classifier
    e = explain(net, PHOTOS[:1], lambda output: output[:, 0] - output[:, 4], **OPTIONS)
    task = Regression(function=lambda output: output[:, 0] - output[:, 4])
    f = explain(net.with_task(task), PHOTOS[:1], **OPTIONS)
    assert torch.equal(e.saliency, f.saliency) and (contrast(e, TASKS["classification"].evidence[:1]) > 4).all()


@pytest.mark.parametrize(
    "net, task, target, words",
    [
        (SegmentDict(8, 3), CLASSIFICATION, "top1", "task=segmentation"),
        (Boxes(8, 3), CLASSIFICATION, "top1", "task=detection"),
        (Classes(8, 3), Segmentation(), "top1", "needs outputs .B, classes, h, w.*task=classification"),
        (Classes(8, 3), Detection(), "top1", "task=detection needs a list of dicts"),
        (Classes(8, 3), Similarity(EYE[0]), 0, "task=similarity needs embeddings .B, 3."),
        (Classes(8, 3), Regression(), "top1", "ranks classes"),
        (Binary(8, 3), CLASSIFICATION, "top1", "task=multilabel"),
        (nn.Sequential(Binary(8, 3), nn.Sigmoid()), Multilabel(), 1, "gives sigmoids.*task.probabilities=true"),
        (nn.Sequential(Labels(8, 3), nn.Sigmoid()), Multilabel(), 1, "gives sigmoids.*task.probabilities=true"),
        (nn.Sequential(Labels(8, 3), nn.Softmax(1)), Multilabel(), 1, "gives a softmax.*task=classification"),
        (SegmentDict(8, 3), Segmentation(), 7, "out of range"),
        (SegmentDict(8, 3), Segmentation(), "cat", "no class names"),
        (Boxes(8, 3), Detection(min_score=0.9999), "top1", "lower task.min_score"),
        (Boxes(8, 3), Detection(), "top3", "no object that the model detects here: there are 0 .class 0., 2"),
        (Boxes(8, 3), Detection(), 5, "no object"),
        (Classes(8, 3), Difference(other=1), 1, "other than the target"),
        (Classes(8, 3), Difference(other=9), 1, "must be a class"),
    ],
)
def test_a_wrong_combination_is_one_sentence(net, task, target, words):
    with pytest.raises(ValueError, match=words) as error:
        explain(Classifier(net, task=task), PHOTOS[:1], target, **OPTIONS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Regression("sideways"),
        lambda: Segmentation("everywhere"),
        lambda: Segmentation([0.5, 0.5, 0.2, 0.9]),
        lambda: Segmentation([20, 30]),
        lambda: Detection(min_score=2),
        lambda: Similarity(torch.zeros(3)),
        lambda: Similarity(EYE, ["one"]),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must|empty|fit"):
        make()


