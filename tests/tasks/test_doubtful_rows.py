"""A row whose mask says little is named once, with what to try."""

import dataclasses
import warnings
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from planted import SQUARE, SquareNet, square_photo
from square_networks import Value

import mpx
from mpx import Classifier, explain, task
from mpx.masks.grid import Grid
from mpx.runs.doubtful import doubtful_rows
from mpx.runs.terminal import format_rows
from mpx.tasks.classification import CLASSIFICATION

PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])
OPTIONS = dict(mask_size=8, steps=2, jitter=0, ranking="trajectory")
ABSENT = 0  # the class of photos without a checkerboard


def warned(*arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explain(*arguments, **OPTIONS | options)
    return [str(warning.message) for warning in caught]


def test_a_target_without_a_probability_is_named():
    (sentence,) = warned(Classifier(SquareNet()), PHOTOS, ABSENT)
    assert sentence.startswith("3 of 3 rows have next to nothing to lose (image0, class 0: p 0.0")
    assert sentence.endswith("value_normalised has no value: try another target or score=log_odds")
    assert "\n" not in sentence and warned(Classifier(SquareNet()), PHOTOS, 1) == []


def test_a_perturbation_that_changes_nothing_is_named():
    flat = torch.full((1, 3, 32, 32), 0.5)  # its blur is itself
    (sentence,) = warned(Classifier(Value()), flat, task=task("regression"))
    assert sentence.startswith("1 of 1 rows has") and "try another target or a stronger perturbation" in sentence
    assert "predicted value" in sentence


def test_a_run_warns_once(folder, mpx):
    code, out, err = mpx(*SQUARE, "images=photos", "pictures=none", f"target={ABSENT}", "name=a", "threads=1", "steps=2")
    assert code == 0 and (out + err).count("next to nothing to lose") == 1
    assert "3 of 3 rows have next to nothing to lose (p0, nothing: p 0.0" in out + err


def test_a_mask_that_stays_empty_is_named_and_the_default_score_leaves_a_network_that_is_sure():
    sure = Classifier(SquareNet(gain=60.0), 0, 1)
    options = dict(target=1, steps=40, lambda_l1=0.3)
    flat, sentence = warned(sure, PHOTOS, **options, score="probability", game="deletion")
    assert flat.startswith("the gradient is 0 at every iteration (image0)") and "scores.probability) that is flat" in flat
    assert sentence.startswith("3 of 3 rows have an empty mask (image0, class 1: p 1.000, and p 1.000 under the mask)")
    assert sentence.endswith("try a smaller lambda_l1 or more steps")
    for game in ("deletion", "dual"):
        assert warned(sure, PHOTOS, **options, game=game) == []


AREAS, WEIGHTS = mpx.method("extremal2019"), mpx.method("fong2017")


def line(after=0.2, area=0.3, requested=""):
    """A row whose probability is 0.9, and 0.1 fully perturbed."""
    values = dict(value_before=0.9, value_after=after, value_reference=0.1, value_normalised=(after - 0.1) / 0.8)
    return dict(image="cat", seconds=1.0, **{"class": "tabby"}, area=area, requested_area=requested, **values)


@pytest.mark.parametrize(
    "method, rows, sentence",
    [
        (WEIGHTS, [line(0.85), line(0.2)], "1 of 2 rows has a mask of next to no effect (cat, tabby: p 0.900, p 0.850 under "
         "the mask, fully perturbed p 0.100): try a smaller lambda_l1 or more steps"),
        (WEIGHTS, [line(0.79)], ""),  # takes more than a tenth
        (dataclasses.replace(WEIGHTS, game="preservation"), [line(0.12)], "p 0.120 under the mask"),
        (dataclasses.replace(WEIGHTS, game="preservation"), [line(0.85)], ""),
        (WEIGHTS, [line(0.9, area=0.0)], "1 of 1 rows has an empty mask (cat, tabby: p 0.900, and p 0.900 under the mask)"),
        (AREAS, [line(0.1, 0.1, 0.1)], "no effect (cat, tabby: p 0.900, p 0.100 under the mask, fully perturbed p 0.100): "
         "try a larger area or more steps"),
        (AREAS, [line(0.1, 0.1, 0.1), line(0.8, 0.2, 0.2)], ""),  # the smaller area shows which suffices
        (AREAS, [line(0.9, 0.9, 0.1)], "1 of 1 rows has an area far from the requested one (cat, tabby: 90.0 % for area="
         "0.1): try more steps"),
        (AREAS, [line(0.9, 0.149, 0.1), line(0.9, 0.051, 0.1)], ""),
        (dataclasses.replace(WEIGHTS, regularizers={}), [line(0.9)], "fully perturbed p 0.100): try more steps"),
        (dataclasses.replace(WEIGHTS, explainer=lambda images, classifier, targets, context: images), [line(0.9)], ""),
    ],
)  # fmt: skip
def test_what_is_told(method, rows, sentence):
    told = doubtful_rows(rows, method, CLASSIFICATION)
    assert len(told) == bool(sentence) and all(sentence in one for one in told)


def test_a_short_search_for_an_area_is_told_by_explain():
    method = mpx.method("extremal2019", "steps=2", "mask_size=8", "perturbation.sigma=3")
    with pytest.warns(UserWarning, match="3 of 3 rows have an area far from the requested one .image0, class 1: .*area=0.1"):
        explain(Classifier(SquareNet()), PHOTOS, 1, method=method)


def test_a_mask_learner_tells_the_same():
    method = mpx.method("quick", "steps=2", "jitter=0", "mask_size=8", "ranking=trajectory")
    learner = mpx.MaskLearner(Classifier(SquareNet()), PHOTOS, ABSENT, method=method)
    silent = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    pl.Trainer(max_epochs=1, accelerator="cpu", **silent).fit(learner)
    with pytest.warns(UserWarning, match="3 of 3 rows have next to nothing to lose"):
        learner.explanation()


class Flat(Grid):
    """Its gradient vanishes where it begins."""

    def forward(self, parameter):
        return super().forward(1 - (1 - parameter) ** 2)

    cells = forward


def test_a_mask_without_gradient_is_told_and_a_score_without_one_refused():
    options = OPTIONS | dict(steps=3, target=1, lambda_l1=0, lambda_tv=0)
    with pytest.warns(UserWarning, match="the gradient is 0 at every iteration .image0.* vanishes at its initial parameter"):
        explain(Classifier(SquareNet()), PHOTOS, mask=partial(Flat, mask_size=8), **options)
    with pytest.raises(ValueError, match="score .*has no gradient to the logits, so no mask can be learnt: look for detach"):
        explain(Classifier(SquareNet()), PHOTOS, score=lambda logits, targets, context: logits.detach()[:, 1], **options)


def test_the_table_shows_the_requested_area_where_rows_differ_in_it():
    rows = [line(0.2, 0.1, 0.1), line(0.2, 0.2, 0.25)]
    assert [text.split()[2] for text in format_rows(rows, CLASSIFICATION).split("\n")] == ["requested", "10.0", "25.0"]
    assert "requested" not in format_rows(rows[:1], CLASSIFICATION)
