"""Each row has the verdict that its numbers deserve; one that does not work is named once, with what to try."""

import dataclasses
import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from planted import SQUARE, SquareNet, square_photo
from scipy.ndimage import label
from square_networks import Value

import mpx
from mpx import Classifier, explain, task
from mpx.masks.grid import Grid
from mpx.runs.terminal import format_rows
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.normalised import normalise
from mpx.verdicts import MEANINGS, count_components, objective_fall, row_verdict, verdict_sentences

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
    assert sentence.startswith("3 of 3 rows: the class was never there, ") and "(image0, class 0: p 0.0" in sentence
    assert "game=preservation score=log_odds" in sentence and "\n" not in sentence
    assert warned(Classifier(SquareNet()), PHOTOS, 1, steps=40) == []


def test_a_perturbation_that_changes_nothing_is_named():
    flat = torch.full((1, 3, 32, 32), 0.5)  # its blur is itself
    (sentence,) = warned(Classifier(Value()), flat, task=task("regression"))
    assert sentence.startswith("1 of 1 rows: perturbation too weak") and "try another target or a stronger" in sentence
    assert "predicted value" in sentence


def test_a_run_warns_once(folder, mpx):
    code, out, err = mpx(*SQUARE, "images=photos", "pictures=none", f"target={ABSENT}", "name=a", "threads=1", "steps=2")
    assert code == 0 and (out + err).count("3 of 3 rows: the class was never there") == 1
    assert json.loads((folder / "outputs/a/summary.json").read_text())["verdicts"] == {"the class was never there": 3}


def test_a_mask_that_stays_empty_is_named_and_the_default_score_leaves_a_network_that_is_sure():
    sure = Classifier(SquareNet(gain=60.0), 0, 1)
    options = dict(target=1, steps=40, lambda_l1=0.3)
    flat, sentence = warned(sure, PHOTOS, **options, score="probability", game="deletion")
    assert flat.startswith("the gradient is 0 at every iteration (image0)") and "scores.probability) that is flat" in flat
    assert sentence.startswith("3 of 3 rows: not converged") and "p 1.000 under the mask of 0.0 %" in sentence
    assert sentence.endswith("try a smaller lambda_l1 or more steps")
    for game in ("deletion", "dual"):
        assert warned(sure, PHOTOS, **options, game=game) == []


AREAS, WEIGHTS = mpx.method("extremal2019"), mpx.method("fong2017")


def row(after=0.12, before=0.9, reference=0.1, requested=math.nan, **values):
    """The numbers of a deletion that works."""
    row = dict(value_before=before, value_after=after, value_reference=reference, requested_area=requested)
    row |= dict(value_normalised=normalise(after, before, reference), area=0.3, fall=0.0, components=2, chance=0.0)
    row |= dict(bounded=True, is_learnt=True)
    return row | {"game": "deletion"} | values


@pytest.mark.parametrize(
    "verdict, values",
    [
        ("works", {}),
        ("works", dict(after=-0.5)),  # below the reference
        ("works", dict(game="preservation", after=0.85)),
        ("works", dict(components=30, cross_perturbation=0.8)),
        ("works", dict(area=0.14, requested=0.1)),
        ("the class was never there", dict(before=0.005, reference=0.0, area=0.0, fall=1.0)),
        ("perturbation too weak", dict(reference=0.5, area=0.0, fall=1.0)),
        ("works", dict(reference=0.5, after=0.5, chance=0.5)),  # one of two answers
        ("perturbation too weak", dict(reference=0.75, chance=0.5)),
        ("perturbation too weak", dict(before=0.02, reference=0.015)),  # nothing to lose
        ("not converged", dict(area=0.0, after=0.9)),
        ("not converged", dict(area=0.8, requested=0.1)),
        ("not converged", dict(area=0.04, requested=0.1)),
        ("not converged", dict(fall=0.2)),
        ("falls short", dict(after=0.3, cross_perturbation_only_own=1.0)),
        ("falls short", dict(game="preservation", after=0.5)),
        ("only under its own perturbation", dict(cross_perturbation_only_own=1.0, cross_perturbation=0.1, components=30)),
        ("scattered", dict(components=30, cross_perturbation=0.3)),
        ("scattered", dict(components=30)),  # not evaluated
        ("", dict(is_learnt=False, after=0.9)),
        ("the class was never there", dict(is_learnt=False, before=0.001)),
    ],
)
def test_the_first_verdict_that_holds(verdict, values):
    assert row_verdict(row(**values)) == verdict and (verdict in MEANINGS or not verdict)


def test_thresholds():
    steep, settled = np.linspace(1, 0, 50), np.exp(-np.arange(50.0))
    assert objective_fall(steep) == pytest.approx(0.25) and objective_fall(settled) < 1e-9
    assert objective_fall(steep[::-1]) == 0.0 and math.isnan(objective_fall(steep[:1]))
    blocks = torch.zeros(30, 30)
    blocks[:20, :20] = blocks[25, ::2] = 1  # one that holds nearly all, and specks
    assert count_components(blocks) == 1 and count_components(blocks[20:]) == 12 and count_components(blocks[21:24]) == 0
    pixels = (torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) > 0.45).float()
    sizes = np.sort(np.bincount(label(pixels.numpy())[0].ravel())[1:])[::-1]
    assert count_components(pixels) == np.searchsorted(np.cumsum(sizes), 0.8 * sizes.sum()) + 1 > 1


@pytest.mark.parametrize(
    "method, rows, sentence",
    [
        (WEIGHTS, [row(0.85), row(0.12)], "1 of 2 rows: falls short, the mask takes, or in a preservation keeps, only a "
         "part of what perturbing everything takes (cat, tabby: p 0.900, p 0.850 under the mask of 30.0 %, p 0.100 with "
         "everything perturbed): try a smaller lambda_l1 or more steps"),
        (WEIGHTS, [row(0.12)], ""),
        (AREAS, [row(0.5, requested=0.3)], "): try a larger area or more steps"),
        (AREAS, [row(0.5, area=0.1, requested=0.1), row(area=0.2, requested=0.2)], ""),  # the smaller shows which suffices
        (AREAS, [row(0.9, area=0.9, requested=0.1)], "under the mask of 90.0 % for area=0.1, p 0.100 with"),
        (dataclasses.replace(WEIGHTS, regularizers={}), [row(0.9)], "try more steps"),
    ],
)  # fmt: skip
def test_what_is_told(method, rows, sentence):
    lines = [line(values) for values in rows]
    told = verdict_sentences(lines, method, CLASSIFICATION)
    assert len(told) == bool(sentence) and all(sentence in one for one in told)


def line(values):
    """A line of results.csv."""
    requested = "" if math.isnan(values["requested_area"]) else values["requested_area"]
    texts = {"image": "cat", "class": "tabby", "verdict": row_verdict(values)}
    return values | texts | {"requested_area": requested, "seconds": 1.0}


def test_a_short_search_for_an_area_is_told_by_explain():
    method = mpx.method("extremal2019", "steps=2", "mask_size=8", "perturbation.sigma=3")
    with pytest.warns(UserWarning, match="3 of 3 rows: not converged.*image0, class 1: .*for area=0.1"):
        explain(Classifier(SquareNet()), PHOTOS, 1, method=method)


def test_a_mask_learner_tells_the_same():
    method = mpx.method("quick", "steps=2", "jitter=0", "mask_size=8", "ranking=trajectory")
    learner = mpx.MaskLearner(Classifier(SquareNet()), PHOTOS, ABSENT, method=method)
    silent = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    pl.Trainer(max_epochs=1, accelerator="cpu", **silent).fit(learner)
    with pytest.warns(UserWarning, match="3 of 3 rows: the class was never there"):
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
    rows = [line(row(area=0.1, requested=0.1)), line(row(area=0.2, requested=0.25))]
    assert [text.split()[2] for text in format_rows(rows, CLASSIFICATION).split("\n")] == ["requested", "10.0", "25.0"]
    assert "requested" not in format_rows(rows[:1], CLASSIFICATION) and "  works" in format_rows(rows[:1], CLASSIFICATION)
    assert "verdict" not in format_rows([rows[0] | {"verdict": ""}], CLASSIFICATION)
