"""run() does what the command does, and load() reads what it left."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SQUARE, SquareNet, square_photo

from mpx import Error, Run, evaluate, explain, load, method, run
from mpx.config_schema import compose

OPTIONS = [*SQUARE, "images=photos", "frames=3", "metric=[deletion]", "pictures=1", "log_images=0", "deterministic=true"]
SHORT = [*OPTIONS, "steps=2"]


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_run_in_python_is_the_commands_to_the_bit(folder, mpx):
    ours = run(*OPTIONS, name="a")
    assert mpx(*OPTIONS, "name=b")[0] == 0
    theirs = load("outputs/b")
    assert isinstance(theirs, Run) and len(ours) == len(theirs) == 3 and repr(ours) == "Run of 3 rows in outputs/a"
    for name in ("saliency", "mask", "parameter"):
        assert ours.arrays(name).dtype == np.float32 and np.array_equal(ours.arrays(name), theirs.arrays(name))
    assert str(without_time(ours.rows)) == str(without_time(theirs.rows))
    assert ours.rows[0]["target"] == 1 and ours.rows[0]["value_before"] > ours.rows[0]["value_after"]
    assert ours.summary["n"] == 3 and ours.panel(0).width > 300
    assert (ours.folder / "run.log").read_text().startswith("mpx name=a ")


def test_a_stored_row_is_explained_as_it_was(folder):
    ours = run(*SHORT, name="a")
    e = ours.explanation(1)
    for column in ("value_before", "value_after", "value_complement", "value_normalised", "area", "passes", "seconds"):
        assert float(vars(e).get(column, e.area)[0]) == pytest.approx(ours.rows[1][column], rel=1e-4)
    assert np.array_equal(e.saliency[0, 0], ours.arrays()[1]) and len(e.curves["total"]) == 2 and e.method.steps == 2
    assert float(evaluate(e, SquareNet(), ["deletion"])["deletion"]) == pytest.approx(ours.rows[1]["deletion"], rel=1e-4)
    Path("photos/p1.png").write_bytes(Path("photos/p2.png").read_bytes())
    with pytest.raises(Error, match="p1.png has changed since the run"):
        ours.explanation(1)
    with torch.no_grad():
        ours._parts[1].network.gain.mul_(0.1)
    with pytest.raises(Error, match="p0: the network's value on the photo was .* the network has changed"):
        ours.explanation()
    explained = run(*SHORT, "explainer=gradient", "limit=1", name="b").explanation()
    assert not explained.is_learnt and explained.saliency.max() == 1


def test_a_composed_configuration_is_run_as_it_is(folder):
    cfg = compose(*SHORT, "name=c", "limit=1", choices=True)
    cfg.steps = 3
    ours = run(cfg)
    assert ours.folder.name == "c" and ours.rows[0]["passes"] == 6 and cfg.name == "c"
    assert run(cfg, name="d").folder.name == "d"
    with pytest.raises(Error, match="lacks the node hydra: compose it with"):
        run(compose(*SHORT))
    with pytest.raises(Error, match="a composed configuration stands alone"):
        run(cfg, "steps=3")


def test_the_same_call_continues_a_run(folder):
    first = run(*SHORT, "limit=1", name="a")
    written = (first.folder / first.rows[0]["mask"]).stat().st_mtime_ns
    assert len(run(*SHORT, name="a")) == 3 and (first.folder / first.rows[0]["mask"]).stat().st_mtime_ns == written
    with pytest.raises(Error, match="another configuration: steps was 2 and is 3"):
        run(*OPTIONS, "steps=3", name="a")


def test_a_folder_of_ones_own_options(folder):
    (folder / "my/experiment").mkdir(parents=True)
    (folder / "my/experiment/mine.yaml").write_text("# @package _global_\nsteps: 3\nlambda_l1: 0.25\n")
    assert method("mine", config_dir="my").steps == 3
    options = [*[o for o in OPTIONS if o != "steps=12"], "experiment=mine", "limit=1"]
    (row,) = run(*options, config_dir="my").rows
    assert row["passes"] == 6
    (row,) = run(*options, "hydra.searchpath=[my]", "hydra/job_logging=none", name="b").rows
    assert row["passes"] == 6 and not Path("outputs/b/run.log").exists()
    with pytest.raises(Error, match="config_dir='no' is no folder"):
        run(*SHORT, config_dir="no")


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["perturbation=blur_medain"], "near it: blur_median"),
        (["images=nowhere"], "nowhere"),
        (["-m", "seed=0,1"], "'-m' is no override"),
        ([3], "3 is no override"),
        (["sweep=seeds"], "sweep=seeds is for the command"),
        (["hydra.sweeper.max_batch_size=2"], "hydra.sweeper.max_batch_size=2 is for the command"),
        (["~metric"], r"write metric=\[\]"),
        (["+experiment=quick"], "leave out the +"),
        (["steps=many"], "steps='many' must be a whole number"),
        (["model=custom", "model.network=broken.py:build"], "ZeroDivisionError: division by zero .at broken.py:2"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(folder, overrides, words):
    (folder / "broken.py").write_text("def build():\n    return 1 / 0\n")
    with pytest.raises(Error, match=words) as error:
        run(*overrides)
    assert isinstance(error.value, ValueError) and not list((folder / "outputs").glob("*"))


def test_what_is_no_run_is_told(folder):
    with pytest.raises(Error, match="'photos' is not the folder of a run"):
        load("photos")
    finished = run(*SHORT, "limit=1", name="a")
    (finished.folder / finished.rows[0]["mask"]).write_bytes(b"half")
    with pytest.raises(Error, match="is missing or damaged"):
        finished.arrays("saliency")


def test_what_an_explanation_saved_is_loaded(tmp_path):
    pandas = pytest.importorskip("pandas")
    net = SquareNet()
    photos = torch.stack([square_photo(net, seed) for seed in range(2)])
    e = explain(net, photos, 1, steps=3, mask_size=8, jitter=0, frames=2)
    e.save(tmp_path)
    stored = load(tmp_path)
    assert np.allclose(stored.arrays("mask"), e.mask[:, 0], atol=1e-3) and stored.summary == {}
    ours, theirs = e.to_dataframe(), stored.to_dataframe()
    assert isinstance(ours, pandas.DataFrame) and list(ours["image"]) == list(theirs["image"])
    assert np.allclose(ours["area"], theirs["area"], rtol=1e-5) and e.animation(1)[:4] == b"RIFF"
    gradient = explain(net, e.images, 1, explainer="gradient")
    with pytest.raises(ValueError, match="no iterations"):
        gradient.animation()
