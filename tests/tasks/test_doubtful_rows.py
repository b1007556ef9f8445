"""A row whose mask says nothing is named once, with what to try."""

import warnings

import torch
from planted import SQUARE, SquareNet, square_photo
from square_networks import Value

from mpx import Classifier, explain, task

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
    (sentence,) = warned(sure, PHOTOS, **options, score="probability", game="deletion")
    assert sentence.startswith("3 of 3 rows have an empty mask (image0, class 1: p 1.000, and p 1.000 under the mask)")
    assert sentence.endswith("try a smaller lambda_l1 or more steps")
    for game in ("deletion", "dual"):
        assert warned(sure, PHOTOS, **options, game=game) == []
