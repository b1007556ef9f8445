"""Runs whose rows several processes share, and the check that they equal the run of one process (outputs/one)."""

from pathlib import Path

import numpy as np
from commands import SAME, done, drafts, masks, summary, table, whole, workplace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHOWN = [a for a in SAME if not a.startswith("log_images")] + ["log_images=2"]


def explained(folder: Path) -> Path:
    """Return the folder, with eight photos that one process explained in outputs/one."""
    home = workplace(folder, 8)
    done(home, *SHOWN, "name=one")
    return home


def run(home: Path, name: str) -> Path:
    return home / "outputs" / name


def check_equals_one(home: Path, name: str, images: int = 8) -> None:
    """Check that a run holds these rows of outputs/one to the bit, each once and in order, in every file about them."""
    this, one = run(home, name), run(home, "one")
    names = [f"p{i:02}-1-checker-board" for i in range(images)]
    assert masks(this) == {row: masks(one)[row] for row in names}
    seconds = {"seconds": None}  # all else in the table is equal, though made elsewhere
    assert [row | seconds for row in table(this)] == [row | seconds for row in table(one)[:images]]
    counts = summary(this)
    assert (counts["n"], counts["n_skipped"], counts["n_missing"], counts["protocol"]["stopped"]) == (images, 0, 0, False)
    assert sum(counts["computed_with"].values()) == images
    files = [path.parent.name for path in this.glob("tensorboard/*/events.out.tfevents.*")]
    assert sorted(files) == sorted(["mean", *names[:2]])
    total = EventAccumulator(str(this / "tensorboard" / "mean")).Reload()
    assert {"score/value", "metric/value_after", "metric/area"} <= set(total.Tags()["scalars"])
    text = total.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert [line.split()[1] for line in text.splitlines()[2:]] == [f"p{i:02}" for i in range(images)]
    assert not (this / "parts").exists() and not drafts(this)
    whole(this)


def check_close(home: Path, name: str, other: str, tolerance: float = 1e-5) -> None:
    """Check that two runs differ by rounding only."""
    paths = sorted((run(home, name) / "masks").iterdir())
    assert paths and [p.name for p in paths] == sorted(p.name for p in (run(home, other) / "masks").iterdir())
    for path in paths:
        a, b = np.load(path), np.load(run(home, other) / "masks" / path.name)
        for key in ("parameter", "curves", "value_after"):
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=f"{path.name} {key}")
