"""Why this model and not that one: the evidence that only the first one uses, and the second one handed back as it came."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from task_networks import NAMES, TASKS, synthetic
from torch import nn

from mpx import config, explain
from mpx.models import Classifier
from mpx.runs.tables import read_csv
from mpx.tasks.difference import Difference, ModelDifference, difference

HERE, THERE = SquareNet(), SquareNet(top=20, left=4)
BOTH = square_photo(HERE, 0)  # with the checkerboards of both networks
BOTH[:, 20:28, 4:12] = square_photo(THERE, 0)[:, 20:28, 4:12]
PHOTOS = torch.stack([square_photo(HERE, 1), BOTH, square_photo(THERE, 2)])
OPTIONS = dict(perturbation=partial(config.option("perturbation", "blur_gaussian"), sigma=3.0), mask_size=8, jitter=0)


def explained(model, other, images=PHOTOS, **options):
    return explain(Classifier(model, task=ModelDifference(other)), images, 1, **{**OPTIONS, "steps": 30} | options)


def probabilities(model, images=PHOTOS):
    with torch.no_grad():
        return model(images).softmax(1)[:, 1]


def test_the_number_is_that_only_this_model_says_so():
    e, p, q = explained(HERE, THERE, steps=2), probabilities(HERE), probabilities(THERE)
    torch.testing.assert_close(e.value_before, p * (1 - q) / (p * (1 - q) + q * (1 - p)))
    assert e.value_before[0] > 0.9 and e.value_before[2] < 0.1
    assert e.classes == ["class 1, unlike SquareNet"] * 3
    torch.testing.assert_close(explained(HERE, HERE, steps=2).value_before, torch.full((3,), 0.5))


def test_the_evidence_is_what_only_this_model_uses():
    saliency = explained(HERE, THERE, PHOTOS[1:2], lambda_l1=0.05).saliency
    here, there = (saliency[:, :, top : top + 8, left : left + 8].mean() for top, left in ((8, 16), (20, 4)))
    assert here > 0.5 and there < 0.1, (here, there)


def test_a_batch_is_its_single_runs():
    together = explained(HERE, THERE)
    for i in range(3):
        torch.testing.assert_close(together.saliency[i : i + 1], explained(HERE, THERE, PHOTOS[i : i + 1]).saliency)


def test_the_gradient_is_that_of_finite_differences():
    classifier = Classifier(SquareNet(), task=ModelDifference(SquareNet(top=20, left=4))).double()

    def logit(amount):
        images = 0.5 + amount * (PHOTOS[1:2].double() - 0.5)
        return classifier.task.logit(classifier(images), torch.tensor([1]))

    amount = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(logit(amount).sum(), amount)[0]
    step = 1e-5
    assert gradient.item() == pytest.approx(((logit(0.7 + step) - logit(0.7 - step)) / (2 * step)).item(), rel=1e-4)


def test_the_other_model_comes_back_as_it_came():
    other = nn.Sequential(nn.Dropout(0.5), SquareNet(), nn.BatchNorm1d(2, affine=True)).train()
    before = pickle.dumps(other.state_dict())
    other[2].weight.requires_grad_(False)
    twice = [explained(HERE, other, steps=3).saliency for _ in range(2)]
    assert torch.equal(*twice)  # no dropout
    assert pickle.dumps(other.state_dict()) == before and all(module.training for module in other.modules())
    assert [parameter.requires_grad for parameter in other[2].parameters()] == [False, True]
    assert all(parameter.grad is None for parameter in other.parameters())


def test_layers_are_those_of_the_model_itself():
    own = Classifier(SquareNet())
    classifier = own.with_task(ModelDifference(nn.Sequential(SquareNet())))
    assert [name for name, _ in classifier.named_modules()] == [name for name, _ in own.named_modules()]
    assert classifier.to(torch.device("meta"))(PHOTOS.to("meta")).shape == (3, 2, 2)  # both have moved


def test_gradcam_takes_the_layers_of_the_model():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
                for _ in range(2)]  # fmt: skip
    e = explained(*networks, explainer="gradcam")
    assert e.saliency.isfinite().all() and e.saliency.any()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: difference(3, THERE), "task.other=3 and task.model are two differences"),
        (lambda: explained(HERE, nn.Sequential(THERE, nn.Linear(2, 3))), "has 2, and Sequential 3"),
        (lambda: explained(HERE, nn.Sequential(THERE, nn.Softmax(1))), "Sequential gives probabilities"),
        (lambda: explained(HERE, "resnot18"), "resnot18"),
        (lambda: explained(nn.Sequential(HERE, nn.Sigmoid()), THERE), "model Sequential gives sigmoids"),
        (lambda: explained(HERE, nn.Sequential(THERE, nn.Sigmoid())), "model Sequential gives sigmoids"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_command_line_compares_with_a_model(folder, mpx):
    assert isinstance(difference(2), Difference)
    other = "task.model={_target_:mpx.models.zoo.custom,network:'net.py:SquareNet',mean:0,std:1,size:32}"
    code, out, err = mpx(*SQUARE, "images=photos", "pictures=none", "task=difference", other, "name=a", "threads=1")
    assert code == 0 and "unlike SquareNet" in (folder / "outputs/a/results.csv").read_text(), err


def test_both_explains_either_class_rather_than_the_other():
    """As two explanations, each of which names the other class."""
    one = TASKS["difference"]
    options = dict(mask_size=12, steps=15, jitter=0, ranking="mask", game="deletion")
    both = explain(synthetic(Difference(both=True)), one.photos[:1], "amber", **options)
    other = one.classifier.categories.index(both.classes[1].split(" rather than ")[0])
    assert both.classes == [f"amber rather than {NAMES[other]}", f"{NAMES[other]} rather than amber"] and len(both) == 2
    alone = [explain(synthetic(Difference(b)), one.photos[:1], a, **options) for a, b in ((0, other), (other, 0))]
    for field in ("saliency", "value_before", "value_after"):
        torch.testing.assert_close(vars(both)[field], torch.cat([vars(e)[field] for e in alone]))
    with pytest.raises(ValueError, match="task.both=true explains one target.* names 2"):
        explain(synthetic(Difference(both=True)), one.photos[:1], ["amber", "basalt"], **options)
    with pytest.raises(ValueError, match="task.both=true and task.model are two differences"):
        difference(model=THERE, both=True)


def test_a_run_shows_both_in_two_colours(tmp_path, monkeypatch, mpx):
    monkeypatch.chdir(tmp_path)
    setting = [
        *("dataset=synthetic", "dataset.size=96", "model=synthetic", "model.size=96", "target=label", "limit=1", "name=a"),
        *("task=difference", "task.both=true", "game=deletion", "steps=20", "mask_size=12", "jitter=0", "log_images=0"),
        *("device=cpu", "threads=1", "batch_size=1", "frames=2"),
    ]
    assert mpx(*setting, "metric=[deletion]")[0] == 0
    rows = read_csv(Path("outputs/a/results.csv"))
    image = torch.from_numpy(np.array(Image.open(f"outputs/a/pairs/{Path(rows[0]['mask']).stem}.png"))).movedim(-1, 0) / 255
    orange, blue = (image[0] - image[2]).clamp(min=0), (image[2] - image[0]).clamp(min=0)
    evidence = slice(image.shape[2] // 4, image.shape[2] // 2)  # the second of four pictures
    assert orange[:, evidence].sum() > 100 and blue[:, evidence].sum() > 100
    report = Path("outputs/a/report.html").read_text()
    assert report.count('"pair": "') == 2 and '"paired": true' in report
    code, out, _ = mpx(*setting, "metric=[complexity]")
    assert "evaluating 2 masks" in out
    assert mpx(*setting, "metric=[deletion]")[0] == 0  # of each row's own other class, as before
    assert [row["deletion"] for row in read_csv(Path("outputs/a/results.csv"))] == [row["deletion"] for row in rows]
