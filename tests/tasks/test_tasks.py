"""Laws of every task: its evidence is found, its metrics rank maps, and its numbers are those of the definition."""

from functools import partial

import numpy as np
import pytest
import torch
from planted import SquareNet, square_photo
from task_networks import EYE, TASKS, Binary, Boxes, Multi, Queries, Segments, network
from torch import nn

from mpx import config, explain
from mpx.data.targets import TargetContext
from mpx.metrics.base import MetricContext, as_metric
from mpx.models import Classifier
from mpx.pictures.colours import outlined
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.difference import Difference
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])
SQUARE = torch.zeros(1, 1, 32, 32)
SQUARE[..., 8:16, 16:24] = 1
BLUR = partial(config.option("perturbation", "blur_gaussian"), sigma=3.0)
OPTIONS = dict(perturbation=BLUR, mask_size=8, steps=40, jitter=0)


def explained(name, images=PHOTOS[:2], **options):
    _, task, target = TASKS[name]
    return explain(Classifier(network(name), task=task), images, target, **OPTIONS | options)


METRICS = ("deletion", "insertion", "normalised_drop", "average_drop", "cross_perturbation", "representativeness", "road")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", TASKS)
def test_metrics_ask_the_task(name, metric):
    """The checkerboard's map is the best, and everything but the checkerboard the worst."""
    _, task, target = TASKS[name]
    classifier = Classifier(network(name), task=task)
    with torch.no_grad():
        outputs = [classifier(photo[None])[0] for photo in PHOTOS]
        targets = torch.tensor([resolved(task, target, output, classifier.categories)[0].index for output in outputs])
    perturbations = {name: partial(filled, value=value) for name, value in (("grey", 0.5), ("dark", 0.4))}
    context = MetricContext(classifier, PHOTOS, targets, perturbations=perturbations, task=task)
    function = as_metric(config.option("metric", metric))
    perfect, inverted = (function(x.expand(3, -1, -1, -1), context)[""] for x in (SQUARE, 1 - SQUARE))
    better = perfect > inverted if function.direction_of("") == "higher" else perfect < inverted
    assert better.all(), (perfect, inverted)


def resolved(task, target, output, categories=None):
    return task.resolve(target, output, TargetContext(categories))


def filled(images, value):
    return torch.full_like(images, value)


def contrast(explanation):
    """The mean saliency (B,) within the checkerboard, in units of that outside."""
    inside, outside = SQUARE.bool().expand_as(explanation.saliency), ~SQUARE.bool().expand_as(explanation.saliency)
    means = [(explanation.saliency * part).sum((1, 2, 3)) / part.sum((1, 2, 3)) for part in (inside, outside)]
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


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
@pytest.mark.parametrize("name", TASKS)
def test_the_evidence_is_found(name, game):
    e = explained(name, game=game)
    assert (contrast(e) > 3).all() and (e.area < 0.3).all()
    assert (e.value_normalised < 0.2).all() if game != "preservation" else (e.value_normalised > 0.8).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_its_single_runs(name):
    together, alone = explained(name, PHOTOS), [explained(name, PHOTOS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together.saliency, torch.cat([e.saliency for e in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.value_before, torch.cat([e.value_before for e in alone]))


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_the_support_is_that_of_finite_differences(name):
    net, (_, task, target) = network(name).double(), TASKS[name]
    photos = PHOTOS[:1].double()
    with torch.no_grad():
        output = task.output(net(photos), 1)
        targets = torch.tensor([one.index for one in resolved(task, target, output[0], task.categories)])
        targets = task.prepare(targets, output, task.output(net(torch.full_like(photos, 0.5)), 1))

    def support(amount):  # of the photo, faded to grey
        return task.support(task.output(net(0.5 + amount * (photos - 0.5)), 1), targets)

    amount = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(support(amount).sum(), amount)[0]
    step = 1e-5
    assert gradient.item() == pytest.approx(((support(0.7 + step) - support(0.7 - step)) / (2 * step)).item(), rel=1e-4)
    assert gradient > 0


@pytest.mark.parametrize("explainer", ["gradient", "integrated_gradients", "occlusion", "rise"])
@pytest.mark.parametrize("name", ["multilabel", "regression", "segmentation", "detection", "similarity"])
def test_explainers_ask_the_task(name, explainer):
    small = {"occlusion": dict(patch=8, stride=4), "rise": dict(masks=200, cells=4)}.get(explainer, {})
    e = explained(name, explainer=partial(config.option("explainer", explainer), **small))
    assert (contrast(e) > (1.2 if explainer == "rise" else 3)).all()


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
    a, b = (Detection().output(net().eval()(PHOTOS), 3) for net in (Boxes, Queries))
    assert resolved(Detection(), "top1", a[0])[0].key == resolved(Detection(), "top1", b[0])[0].key
    for label in (1, 2):
        boxes = [Detection().prepare(torch.tensor([label] * 3), x)[:, 1:] for x in (a, b)]
        torch.testing.assert_close(boxes[0], boxes[1] * 32)


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
    for name in ("segmentation", "segmentation_box", "detection", "detection_queries"):
        assert torch.equal(explained(name, steps=2).region, SQUARE.bool().expand(2, 1, 32, 32)), name
    assert explained("multilabel", steps=2).region is None
    image = outlined(torch.full((3, 32, 32), 0.5), SQUARE[0].bool(), 1)
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
    e = explain(Classifier(Multi()), PHOTOS[:1], lambda output: output[:, 1] - output[:, 0], **OPTIONS)
    task = Regression(function=lambda output: output[:, 1] - output[:, 0])
    f = explain(Classifier(Multi(), task=task), PHOTOS[:1], **OPTIONS)
    assert torch.equal(e.saliency, f.saliency) and (contrast(e) > 2).all()


@pytest.mark.parametrize(
    "net, task, target, words",
    [
        (Segments(), CLASSIFICATION, "top1", "task=segmentation"),
        (Boxes(), CLASSIFICATION, "top1", "task=detection"),
        (SquareNet(), Segmentation(), "top1", "needs outputs .B, classes, h, w.*task=classification"),
        (SquareNet(), Detection(), "top1", "task=detection needs a list of dicts"),
        (SquareNet(), Similarity(EYE[0]), 0, "task=similarity needs embeddings .B, 3."),
        (SquareNet(), Regression(), "top1", "ranks classes"),
        (Binary(), CLASSIFICATION, "top1", "task=multilabel"),
        (nn.Sequential(Binary(), nn.Sigmoid()), Multilabel(), 1, "gives sigmoids.*task.probabilities=true"),
        (nn.Sequential(Multi(), nn.Sigmoid()), Multilabel(), 1, "gives sigmoids.*task.probabilities=true"),
        (nn.Sequential(Multi(), nn.Softmax(1)), Multilabel(), 1, "gives a softmax.*task=classification"),
        (Segments(), Segmentation(), 7, "out of range"),
        (Segments(), Segmentation(), "cat", "no class names"),
        (Boxes(), Detection(min_score=0.9999), "top1", "lower task.min_score"),
        (Boxes(), Detection(), "top3", "no object that the model detects here: there are 1 .class 1., 2"),
        (Boxes(), Detection(), 5, "no object"),
        (SquareNet(), Difference(other=1), 1, "other than the target"),
        (SquareNet(), Difference(other=9), 1, "must be a class"),
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


