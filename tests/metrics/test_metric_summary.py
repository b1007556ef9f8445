"""Means over rows with bootstrap intervals: laws, and the mean over classes against scikit-learn."""

import numpy as np
import pytest

from mpx.metrics.summary import describe, mean_with_interval
from mpx.runs.terminal import format_metrics


def test_the_mean_is_of_finite_rows_and_lies_in_its_interval():
    values = np.array([0.0, 1.0, 1.0, 0.5, np.nan])
    result = mean_with_interval(values)
    assert result["value"] == 0.625 and result["n"] == 4
    assert result["interval95"][0] < 0.625 < result["interval95"][1] and mean_with_interval(values) == result
    assert mean_with_interval(np.array([np.nan])) == {"value": None, "interval95": None, "n": 0}
    assert mean_with_interval(np.array([0.3]))["interval95"] is None
    assert mean_with_interval(np.full(5, 0.25))["interval95"] == [0.25, 0.25]


def test_the_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    intervals = [mean_with_interval(rng.random(40))["interval95"] for _ in range(40)]
    assert 0.85 < np.mean([low <= 0.5 <= high for low, high in intervals]) <= 1
    low, high = mean_with_interval(rng.normal(size=400))["interval95"]
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


HITS, CLASSES = np.array([1, 0, 1, 1, 0, 1]), np.array([7, 7, 7, 2, 2, 900])


def test_the_mean_over_classes_is_that_of_their_means():
    assert mean_with_interval(HITS, CLASSES)["value"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


@pytest.mark.slow
def test_the_mean_over_classes_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    hits, classes = HITS, CLASSES
    result = mean_with_interval(hits, classes)
    pointed = np.where(hits > 0, classes, np.roll(classes, 3))  # a miss points at another class
    assert result["value"] == pytest.approx(metrics.balanced_accuracy_score(classes, pointed))


def test_a_class_that_a_draw_lacks_does_not_count_in_it():
    result = mean_with_interval(np.ones(6), np.array([0, 0, 0, 0, 0, 1]))
    assert result["value"] == 1 and result["interval95"] == [1, 1]


def test_the_rows_of_an_image_are_drawn_together():
    """Four copies of each row make nothing more certain."""
    values, classes, images = np.random.default_rng(0).random(20), np.arange(20) % 3, np.arange(20)
    once = mean_with_interval(values, classes)
    copies = mean_with_interval(*(np.tile(x, 4) for x in (values, classes, images)))
    assert copies["interval95"] == pytest.approx(once["interval95"]) and copies["n"] == 80
    assert mean_with_interval(values, images=np.zeros(20))["interval95"] is None
    uneven = mean_with_interval(np.array([0.0, 0.0, 0.0, 1.0]), images=np.array([5, 5, 5, 2]))
    assert uneven["value"] == 0.25 and uneven["interval95"] == [0, 1]


def test_a_description_has_the_same_mean_and_interval():
    values, images = [0.1, 0.9, float("nan"), 0.4], ["a", "b", "b", "a"]
    result, mean = describe(values, images), mean_with_interval(np.array(values), images=np.array([0, 1, 1, 0]))
    assert result == {"n": 3, "mean": mean["value"], "median": 0.4, "interval95": mean["interval95"]}
    assert describe([]) == {"n": 0, "mean": None, "median": None, "interval95": None}
    assert describe([1.0, 2.0], draws=0)["interval95"] is None


def test_the_terminal_says_which_values_are_better():
    values = {"value": 0.25, "interval95": [0.1, 0.4], "n": 3}
    kinds = {"deletion": "lower", "insertion": "higher", "sanity": "near 0", "sanity_map": "none"}
    empty = {"iou": {"value": None, "interval95": None, "n": 0, "better": "higher", "metric": "iou"}}
    assert format_metrics(empty, 3).split(maxsplit=2) == ["iou", "↑", "no row has a value"]
    text = format_metrics({name: values | {"better": better} for name, better in kinds.items()}, 3)
    assert [line.split(" 0.250")[0].split() for line in text.splitlines()] == [
        ["deletion", "↓"], ["insertion", "↑"], ["sanity", "0"], ["sanity_map"],
    ]  # fmt: skip
    assert text.endswith("of 3 rows")
    assert format_metrics({"iou": values | {"better": "higher"}}, 4).endswith("of 3 of 4 rows")
