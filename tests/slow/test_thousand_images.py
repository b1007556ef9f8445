"""A thousand images cost what their rows cost: neither memory nor the work for a row grows with the run."""

import numpy as np
import pytest
from commands import summary
from many_photos import many_photos, measured

MANY, FEW = 1000, 16


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return many_photos(tmp_path_factory.mktemp("thousand"), MANY)


def test_sixty_times_the_rows_take_no_more_memory_and_no_more_calls_for_each(home):
    small, _, _ = measured(home, f"limit={FEW}", "name=few")
    large, calls, opened = measured(home, "name=many")
    assert summary(home / "outputs" / "many")["n"] == MANY
    assert large < 1.1 * small
    first, *_, last = np.array_split(calls, 4)  # not seconds, which neighbours lengthen
    assert np.median(last) < 1.01 * np.median(first)
    photos = {name: count for name, count in opened.items() if name.startswith("p") and name.endswith(".png")}
    assert len(photos) == MANY and set(photos.values()) == {2}  # its digest and its decoding
