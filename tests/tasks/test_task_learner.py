"""MaskLearner takes a task as explain() does, and gives the same masks to the bit."""

import pytest
import torch
from planted import SquareNet, square_photo
from square_networks import TASKS, network
from torch import nn
from trainers import cpu_trainer

import mpx
from mpx.tasks.difference import Difference, ModelDifference
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation

IMAGES = torch.stack([square_photo(SquareNet(), seed) for seed in range(2)])
NAMES = ["nothing", "board"]
METHOD = mpx.method("quick", "mask_size=8", "steps=3")


def learnt(net, task, target):
    module = mpx.MaskLearner(mpx.Classifier(net), IMAGES, target, task=task, method=METHOD)
    cpu_trainer().fit(module)
    return module.explanation()


@pytest.mark.parametrize("name", [*TASKS, "models", "function"])
def test_the_library_is_the_learner(name):
    if name == "models":
        net, task, target = SquareNet(), ModelDifference(SquareNet(top=20)), 1
    elif name == "function":
        net, task, target = SquareNet(), None, lambda output: output[:, 1]
    else:
        net, (_, task, target) = network(name), TASKS[name]
    e, f = mpx.explain(mpx.Classifier(net), IMAGES, target, task=task, method=METHOD), learnt(net, task, target)
    for field in ("saliency", "value_before", "value_after", "value_reference"):
        assert torch.equal(vars(e)[field], vars(f)[field]), field
    assert e.names == f.names and e.classes == f.classes and e.task.quantity == f.task.quantity
    assert (e.region is None) == (f.region is None) and (e.region is None or torch.equal(e.region, f.region))


def test_a_name_and_the_default_method_do_for_both():
    learner = mpx.MaskLearner(mpx.Classifier(SquareNet()), IMAGES, 1, task="multilabel")
    cpu_trainer().fit(learner)
    e = mpx.explain(mpx.Classifier(SquareNet()), IMAGES, 1, task="multilabel")
    assert torch.equal(e.saliency, learner.explanation().saliency) and e.task.support_unit == "sigmoid of the target label"


class Margin(Difference):
    """A task of the user's own, with two classes as options."""

    class_options = ("other", "third")

    def __init__(self, other=None, third=None):
        super().__init__(other)
        self.third = third


def test_options_that_are_classes_are_given_by_name():
    classifier = mpx.Classifier(SquareNet(), categories=NAMES)
    built = mpx.Classifier(SquareNet(), categories=NAMES, task=Margin("nothing", "board"))
    for task in (classifier.with_task(Margin("nothing", 1)).task, built.task):
        assert (task.other, task.third) == (0, 1)
    named, numbered = (mpx.explain(classifier, IMAGES, "board", task=Difference(o), method=METHOD) for o in ("nothing", 0))
    assert torch.equal(named.saliency, numbered.saliency) and named.classes == ["board rather than nothing"] * 2
    assert classifier.with_task(mpx.task("segmentation", "task.background=nothing")).task.background == 0


def test_a_task_has_a_name_and_options():
    task = mpx.task("segmentation", "task.region=[0,0,0.5,0.5]", "task.background=0")
    assert isinstance(task, Segmentation) and list(task.region) == [0, 0, 0.5, 0.5] and task.background == 0
    assert isinstance(mpx.task("regression"), Regression)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: mpx.task("segmentatoin"), "task='segmentatoin' is not an option; near it: segmentation"),
        (lambda: mpx.task("segmentation", "task.regoin=image"), "regoin"),
        (lambda: mpx.task("segmentation", "steps=3"), "steps=3 is not an option of the task"),
        (lambda: learnt(SquareNet(), "multilabl", 1), "task='multilabl' is not an option; near it: multilabel"),
        (lambda: learnt(SquareNet(), 3, 1), "task of type int must be an mpx.Task, e.g. mpx.task"),
        (lambda: learnt(SquareNet(), Difference("nothing"), 1), "task.other 'nothing' is a name, and the model has no"),
        (lambda: mpx.Classifier(SquareNet(), categories=NAMES, task=Difference("nthing")), "near it: nothing"),
        (lambda: learnt(SquareNet(), Regression(), lambda output: output[:, 1]), "leave task= out"),
        (lambda: learnt(nn.Sequential(SquareNet(), nn.Softmax(1)), mpx.task("segmentation"), 1), "set task=classification"),
    ],
)
def test_a_wrong_task_is_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
