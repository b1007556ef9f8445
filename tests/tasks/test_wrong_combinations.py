"""Networks, tasks and targets that do not fit each other: one sentence each, which says what to do."""

import pytest
import torch
from planted import SquareNet, square_photo
from square_networks import EYE, Boxes, Embedding, Multi, Queries, Segments, Value

from mpx import Classifier, config, explain
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.difference import Difference, ModelDifference
from mpx.tasks.multilabel import Multilabel
from mpx.tasks.regression import Regression
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

PHOTO = square_photo(SquareNet(), 0)[None]


class NoBoxes(Boxes):
    """A detector that finds nothing."""

    def forward(self, x):
        return [{name: values[:0] for name, values in one.items()} for one in super().forward(x)]


@pytest.mark.parametrize(
    "net, task, target, words",
    [
        (Value(), CLASSIFICATION, "top1", "got .1,. for B=1: set task=regression"),
        (Value(), Segmentation(), "top1", "needs outputs .B, classes, h, w.*task=regression"),
        (Value(), Multilabel(), 1, "set task=regression"),
        (Value(), Regression(), 3, "3 is out of range: the model has 1 classes, 0 to 0"),
        (Value(), Regression(), "label", "ranks classes, and this network predicts 1 values"),
        (Segments(), Regression(), 0, "set task=segmentation"),
        (Segments(), Detection(), 0, "task=detection needs a list of dicts.*set task=segmentation"),
        (Segments(), Similarity(EYE[0]), 0, "task=similarity needs embeddings .B, 3."),
        (Segments(), Segmentation("dataset"), 1, "the dataset has no region of class 1 in this image"),
        (Segments(), Segmentation("predicted"), "top9", "top9' is out of range: this model goes from top1 to top2"),
        (Segments(), Segmentation(background=2), "top1", "task.background=2 must be a class, 0 to 1, or null"),
        (Segments(), Segmentation(background=-1), "top1", "task.background=-1 must be a class, 0 to 1, or null"),
        (SquareNet(), Difference(5000), 1, "task.other=5000 must be a class, 0 to 1, other than the target"),
        (Boxes(), Segmentation(), 1, "the model gives list for B=1: set task=detection"),
        (Queries(), Segmentation(), 1, "set task=detection"),
        (Queries(), Multilabel(), 1, "set task=detection"),
        (Boxes(), Detection(box=[0, 0, 0.5, 0.5]), "top1", "needs the class of the box: set target= to its index or name"),
        (Boxes(), Detection(box=[0, 0, 0.5, 0.5]), "label", "needs a dataset with labels"),
        (Boxes(), Detection(), "label", "needs a dataset with labels"),
        (Boxes(), Detection(), -1, "-1 is out of range: classes count from 0"),
        (Boxes(), Detection(), "dog", "'dog' is a name, and the model has no class names: give an index from 0"),
        (NoBoxes(), Detection(), "top1", "the model detects nothing in this image"),
        (Embedding(), Similarity(EYE, ["a", "b", "c"]), "dog", "'dog' is not a class of this model; its 3 classes"),
        (Embedding(), Similarity(torch.ones(5)), 0, "needs embeddings .B, 5., as the ones to compare with are"),
        (Embedding(), Similarity(texts=["a dog"]), 0, "task.texts need a model that embeds texts"),
        (SquareNet(), ModelDifference(Multi()), 1, "models of the same classes: the model has 2, and Multi 3"),
        (Multi(), Multilabel(), 3, "3 is out of range: the model has 3 classes, 0 to 2"),
        (SquareNet(), None, lambda output: output, "function value must return .B,. numbers, got .1, 2. for B=1"),
    ],
)
def test_a_wrong_combination_is_one_sentence(net, task, target, words):
    with pytest.raises(ValueError, match=words) as error:
        explain(Classifier(net), PHOTO, target, task=task, mask_size=8, steps=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Detection(box=[0.1, 0.1, 0.1, 0.5]),
        lambda: Detection(box=[10, 10, 20, 20]),
        lambda: Detection(box=3),
        lambda: Segmentation([0.1, 0.2, 0.3]),
        lambda: Segmentation(5),
        lambda: Segmentation("no/such/mask.png"),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize(
    "change, kind",
    [
        *((lambda out, kind=kind: out.to(kind), kind) for kind in (torch.bool, torch.long, torch.complex64)),
        (lambda out: out.to("meta"), "meta torch.strided"),
        (lambda out: out.to_sparse(), "cpu torch.sparse_coo"),
        (lambda out: out[:, :0], "nothing"),
    ],
)
def test_outputs_that_are_no_real_numbers_are_refused(change, kind):
    class Net(SquareNet):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(ValueError, match=f"model Net gives {kind} for an image, and its output must be real numbers"):
        explain(Classifier(Net()), PHOTO, 1, mask_size=8, steps=2)


@pytest.mark.parametrize("name, option", [("difference", "other=1.5"), ("segmentation", "background=[1]")])
def test_an_option_of_another_type_is_one_sentence(name, option):
    with pytest.raises(ValueError, match=f"task.{option.split('=')[0]}=.* must be of type int or str or null"):
        config.task(name, f"task.{option}")
