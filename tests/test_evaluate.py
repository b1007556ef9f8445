"""mpx.evaluate gives the numbers that a run writes to results.csv."""

from functools import partial
from pathlib import Path

import pytest
import torch
from metrics.scene import square
from planted import SQUARE, SquareNet, square_photo
from tasks.task_networks import TASKS

from mpx import Classifier, config, evaluate, explain
from mpx.data.preprocessing import Preprocess
from mpx.metrics.deletion_insertion import deletion
from mpx.runs.tables import read_csv
from mpx.tasks.difference import ModelDifference

OPTIONS = [argument for argument in SQUARE if not argument.startswith(("model", "device"))]
PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(2)])


def test_the_numbers_of_a_run(folder, mpx):
    boxes = [f"photos/p{i}.png,checker board,16,8,24,16" for i in range(3)]
    Path("boxes.csv").write_text("\n".join(["image,label,x0,y0,x1,y1", *boxes]))
    names = ["deletion", "cross_perturbation", "stability", "mass"]
    options = [*OPTIONS, "game=preservation", "other_perturbations=[noise]", "metrics.stability.seeds=2"]
    run = ["dataset=images", "dataset.files=photos", "dataset.boxes=boxes.csv", "pictures=none", "log_images=0", "name=a"]
    code, out, err = mpx(*SQUARE, *options[len(OPTIONS) :], *run, f"metric=[{','.join(names)}]", "device=cpu")
    assert code == 0, out + err
    rows = read_csv(Path("outputs/a/results.csv"))
    model = Classifier(SquareNet(), preprocess=Preprocess((32, 32), 32))
    e = explain(model, "photos", method=config.build_method(config.compose(*options[:-2])))
    metrics = {name: config.option("metric", name) for name in names}
    found = evaluate(e, model, metrics | {"stability": partial(metrics["stability"], seeds=2)},
                     regions=square().bool().expand(3, -1, -1, -1), other_perturbations=["noise"])  # fmt: skip
    assert {column for column in rows[0] if column.startswith(tuple(names))} == found.keys()
    for column, values in found.items():
        expected = torch.tensor([float(row[column] or "nan") for row in rows])
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["detection", "regression", "similarity_texts", "difference"])
def test_every_task_is_evaluated_at_its_own_place(name):
    one = TASKS[name]
    e = explain(one.classifier, one.photos, one.target, mask_size=12, steps=8, jitter=0, frames=2)
    again = evaluate(e, one.classifier, ["mass", partial(deletion, step=2304)], regions=one.evidence)
    assert (again["mass"] > 0.3).all() and again["deletion"].shape == (2,)
    single = evaluate(e.select([1]), one.classifier, ["mass"], regions=one.evidence[1:])
    assert single["mass"].tolist() == again["mass"][1:].tolist()


@pytest.mark.parametrize(
    "metric, options, words",
    [
        ("deletion", {}, "metric='deletion' must be a list"),
        (["mass"], {}, "metric mass compares with where the target is: give regions="),
        (["sanity"], {"task": "segmentation"}, "leave it out"),
        (["deletoin"], {}, "metric='deletoin' is not an option"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(metric, options, words):
    one = TASKS[options.get("task", "classification")]
    e = explain(one.classifier, one.photos[:1], one.target, mask_size=12, steps=1, jitter=0)
    with pytest.raises(ValueError, match=words) as error:
        evaluate(e, one.classifier, metric)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "regions",
    [torch.rand(2, 1, 96, 96), torch.ones(2, 96, 96, dtype=torch.bool), torch.ones(1, 1, 96, 96, dtype=torch.bool), [True]],
)
def test_regions_are_of_true_and_false(regions):
    one = TASKS["classification"]
    e = explain(one.classifier, one.photos, one.target, mask_size=12, steps=1, jitter=0)
    with pytest.raises(ValueError, match=r"must be a tensor \(B,1,H,W\) = \(2, 1, 96, 96\) of True and False"):
        evaluate(e, one.classifier, ["mass"], regions=regions)


def test_a_model_without_the_class_is_refused_and_a_metric_without_values_is_told():
    e = explain(Classifier(SquareNet()), PHOTOS, 1, mask_size=8, steps=2, ranking="mask")
    single = torch.nn.Sequential(SquareNet(), torch.nn.Linear(2, 1))
    with pytest.raises(ValueError, match="has no class 1, which is explained .it has 0 to 0.: give the explained model"):
        evaluate(e, Classifier(single), [partial(deletion, step=256)])
    absent = explain(Classifier(SquareNet()), PHOTOS, 0, mask_size=8, steps=2, ranking="mask")
    with pytest.warns(UserWarning, match="2 of 2 rows: the class was never there"):
        assert evaluate(absent, Classifier(SquareNet()), ["cross_perturbation"])["cross_perturbation"].isnan().all()


def test_images_that_the_model_does_not_take_are_one_sentence():
    e = explain(Classifier(SquareNet(), channels=1), PHOTOS[:, :1], 1, mask_size=8, steps=1, ranking="mask")
    coloured = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 32), torch.nn.Flatten())
    with pytest.raises(ValueError, match="model Sequential fails for images of 1 channel and 32x32 px") as error:
        evaluate(e, Classifier(coloured), ["complexity"])
    assert "\n" not in str(error.value)


def test_a_metric_without_values_for_any_other_reason_is_told():
    e = explain(Classifier(SquareNet()), PHOTOS, 1, mask_size=8, steps=2, ranking="mask")
    with pytest.warns(UserWarning, match="^cross_perturbation: no row has a value$"):
        evaluate(e, Classifier(SquareNet()), ["cross_perturbation"], other_perturbations=[])


def test_memory_that_ends_while_norms_are_folded_is_one_sentence(monkeypatch):
    def end(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(Classifier, "fold", end)
    with pytest.raises(ValueError, match="^out of memory .CUDA out of memory.*: a smaller batch_size, .* needs less$"):
        explain(Classifier(SquareNet()), PHOTOS, 1, mask_size=8, steps=1, ranking="mask")


def test_two_models_are_those_of_the_classifier():
    classifier = Classifier(SquareNet(), task=ModelDifference(Classifier(SquareNet(top=20, left=4))))
    e = explain(classifier, PHOTOS, 1, mask_size=8, steps=4)
    metric = [partial(deletion, step=256)]
    assert evaluate(e, classifier, metric)["deletion"].isfinite().all()
    with pytest.raises(ValueError, match="compares two models: give the Classifier"):
        evaluate(e, Classifier(SquareNet()), metric)
