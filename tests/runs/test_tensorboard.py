"""What TensorBoard reads back: one file, every curve, ten images of a tag at most, a real GIF. A full disk is survived."""

import io
import logging
import subprocess
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mpx.runs import tables
from mpx.runs.tensorboard import IMAGES, POINTS, WHOLE, Means, Rows, chosen, markdown, write_whole

KEEP_ALL = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)


CONFIG = {"lambda_tv": 0.2, "mask": "grid", "none": None}


def record(folder, *batches, limit=8):
    board, means, rows = Rows(folder), Means(), []
    for e in batches:
        board.show(e.only(list(range(limit))[: len(e)]))
        limit -= len(e)
        means.add(e.curves)
        rows += tables.table_rows(e)
    board.close()
    shown = [row["mask"][6:-4] for row in rows]
    for text in ("once", "a: 1"):  # the whole is said again when a run goes on
        texts = {"config": text, "command": "mpx a=1"}
        write_whole(folder, rows, means(), shown, CONFIG, texts, {"deletion": {"value": 0.25}, "road": {"value": None}})
    events = EventAccumulator(str(folder), size_guidance=KEEP_ALL)
    events.Reload()
    return events


def test_the_rows_and_the_whole_have_a_file_each_directly_in_the_folder(tmp_path, explanation):
    record(tmp_path, explanation())
    names = sorted(p.name for p in tmp_path.rglob("*"))
    assert len(names) == 2 and all(name.startswith("events.out.tfevents") for name in names)
    assert sum(name.endswith(WHOLE) for name in names) == 1


def test_curves_of_rows_and_their_mean(tmp_path, explanation):
    e = explanation(steps=1000)
    e.curves["total"][5:] = float("nan")
    e.curves["area"][:, 1] = float("nan")  # one bad row leaves the mean of the others
    events = record(tmp_path, e)
    names = {"loss_total", "loss_score", "loss_l1", "loss_tv", "probability", "area"}
    groups = ("mean", "row cup-1-mug", "row cat-2-tabby")
    metrics = {f"metric/{k}" for k in ("p_after", "p_normalised", "area", "passes", "seconds", "deletion")}
    assert set(events.Tags()["scalars"]) == {f"{g}/{n}" for g in groups for n in names} | metrics
    for group, values in (("mean", e.curves["probability"].mean(1)), ("row cat-2-tabby", e.curves["probability"][:, 1])):
        curve = events.Scalars(f"{group}/probability")
        steps = [s.step for s in curve]
        assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == 999 and len(steps) <= POINTS
        assert all(s.value == pytest.approx(values[s.step].item(), rel=1e-5) for s in curve)
    assert events.Scalars("mean/area")[0].value == pytest.approx(e.curves["area"][0, 0].item())
    assert events.Scalars("metric/p_after")[-1].value == pytest.approx(0.2)
    assert events.Scalars("metric/deletion")[-1].value == 0.25


def test_the_mean_is_over_all_rows_of_all_batches_logged_or_not(tmp_path, explanation):
    one, two = explanation(names=["a-1", "b-1", "c-1"], classes="abc"), explanation(names=["d-1"], classes="d")
    two.curves = {k: v + 1 for k, v in two.curves.items()}
    events = record(tmp_path, one, two, limit=2)
    expected = (one.curves["score"].sum(1) + two.curves["score"].sum(1)) / 4
    assert [s.value for s in events.Scalars("mean/loss_score")] == pytest.approx(expected.tolist(), rel=1e-5)
    assert {t.split("/")[0] for t in events.Tags()["images"]} == {"row a-1", "row b-1"}


@pytest.mark.parametrize("frames", [2, 6, 40])
def test_images_are_few_and_start_and_end_right(tmp_path, explanation, frames):
    e = explanation(steps=200, frames=frames)
    events = record(tmp_path, e)
    for tag in events.Tags()["images"]:
        images = events.Images(tag)
        assert len(images) <= IMAGES and images[-1].step == 200
        picture = Image.open(io.BytesIO(images[0].encoded_image_string))
        assert picture.size == (images[0].width, images[0].height)
        if tag.endswith("evolution"):
            assert images[0].step == 0 and picture.size == (3 * 56, 40)
        if tag.endswith("animation"):
            assert images[0].encoded_image_string.startswith(b"GIF8") and picture.n_frames == frames
    histograms = events.Histograms("row cup-1-mug/saliency")
    assert [h.step for h in histograms] == e.iterations
    assert histograms[0].histogram_value.num == e.frame_saliency[0, 0].numel()


@pytest.mark.parametrize("iterations", [[0], [0, 1], list(range(301)), [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233]])
def test_chosen_frames_are_geometric(iterations):
    frames = chosen(iterations)
    assert frames[0] == 0 and frames[-1] == len(iterations) - 1 and len(frames) == len(set(frames)) <= 10
    if len(iterations) > 10:
        assert sum(iterations[f] <= 30 for f in frames) >= 5


def test_hyperparameters_and_their_metrics_are_in_the_same_file(tmp_path, explanation):
    events = record(tmp_path, explanation())
    read = {tag: plugin_data_pb2.HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)
            for tag in ("_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info")}  # fmt: skip
    started = read["_hparams_/session_start_info"].session_start_info.hparams
    assert started["lambda_tv"].number_value == 0.2 and started["mask"].string_value == "grid" and "none" not in started
    metrics = {m.name.tag for m in read["_hparams_/experiment"].experiment.metric_infos}
    names = ("p_after", "p_normalised", "area", "passes", "seconds", "deletion")  # road has no value
    assert metrics == {f"metric/{k}" for k in names}
    assert metrics <= set(events.Tags()["scalars"]) and all(len(events.Scalars(m)) == 1 for m in metrics)


def test_text_and_layout(tmp_path, explanation):
    events = record(tmp_path, explanation())

    def text(tag):
        return events.Tensors(f"run/{tag}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert "a: 1" in text("config") and "mpx a=1" in text("command") and "| cup | 1 | mug |" in text("summary")
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [c.title for c in layout.category] == ["mean", "row cup-1-mug", "row cat-2-tabby"]
    scalars = events.Tags()["scalars"]
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                assert pattern[1:-1].replace("\\", "") in scalars, pattern


def test_markdown_of_hostile_and_many_rows(explanation):
    row = tables.table_rows(explanation())[0]
    lines = markdown([row | {"class": "a|b\nc\udcff"}] * 300).split("\n")
    assert "a\\|b c" in lines[2] and "100 more rows" in lines[-1] and len(lines) == 204
    assert len({line.replace("\\|", "").count("|") for line in lines[:-2]}) == 1


def test_names_that_are_not_text(tmp_path, explanation):
    board = Rows(tmp_path)
    e = explanation(names=["\udcff-1"], classes=["\udcff"])
    board.show(e)
    write_whole(tmp_path, tables.table_rows(e), {}, e.names, {}, {"command": "mpx \udcff"}, {})
    assert not board.failed


def test_an_unwritable_folder_costs_one_warning(tmp_path, explanation, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "mpx"):
        board = Rows(tmp_path / "file" / "run")
        board.show(explanation())
        board.show(explanation())
        board.close()
    assert len(caplog.records) == 1


FULL = """
import resource, sys
from pathlib import Path
from mpx.runs.tensorboard import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
write_whole(Path(sys.argv[1]), [], {}, [], {}, {"config": "x" * 100_000}, {})
print("alive")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_does_not_stop_the_run(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "alive\n", done.stderr
    assert done.stderr.count("TensorBoard is off") == 1
