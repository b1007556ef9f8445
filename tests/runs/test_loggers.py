"""What loggers hold of a run: a run for each row, all curves with real times, few images, hyperparameters once."""

import csv
import io
import logging
from functools import partial
from html.parser import HTMLParser

import pytest
import yaml
from finished_run import HOSTILE
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams import plugin_data_pb2

from mpx.runs.curve_means import CurveMeans
from mpx.runs.loggers import RunLoggers
from mpx.runs.loggers.entries import MAX_IMAGES, MAX_POINTS, code_markdown, geometric_frames, results_markdown
from mpx.runs.tables import table_rows

KEEP_ALL = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
CURVES = {"loss/total", "loss/score", "loss/l1", "loss/tv", "score/value", "mask/area"}
METRICS = {f"metric/{name}" for name in ("value_after", "value_normalised", "area", "passes", "seconds", "deletion")}
TENSORBOARD = {"tensorboard": partial(TensorBoardLogger, default_hp_metric=False)}


def record(folder, factories, *batches, limit=8, text="a: 1"):
    """Log the first rows of these explanations, and a summary of all."""
    loggers = RunLoggers(folder, factories)
    loggers.log_hyperparameters({"lambda_tv": 0.2, "mask": "grid", "none": None})
    means = CurveMeans()
    rows = []
    for e in batches:
        loggers.log_row(e.select(list(range(limit))[: len(e)]))
        limit -= len(e)
        means.add(e.curves)
        rows += table_rows(e)
    texts = {"config": text, "command": "mpx \udcff"}
    loggers.log_summary(rows, means.means(), {"deletion": {"value": 0.25}, "road": {"value": None}}, texts)
    loggers.close()
    return loggers


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance=KEEP_ALL)
    accumulator.Reload()
    return accumulator


def test_in_tensorboard_each_row_is_a_run_and_the_mean_is_one(tmp_path, explanation):
    e = explanation(steps=1000)
    e.curves["total"][5:] = float("nan")
    e.curves["area"][:, 1] = float("nan")  # one bad row leaves the mean of the others
    record(tmp_path, TENSORBOARD, e)
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == ["cat-2-tabby", "cup-1-mug", "mean"] and len(list(tmp_path.iterdir())) == 1
    means = events(tmp_path / "tensorboard/mean")
    assert set(means.Tags()["scalars"]) == CURVES | METRICS and not means.Tags()["images"]
    assert means.Scalars("mask/area")[0].value == pytest.approx(e.curves["area"][0, 0].item())
    assert means.Scalars("metric/deletion")[-1].value == 0.25
    row = events(tmp_path / "tensorboard/cat-2-tabby")
    assert set(row.Tags()["scalars"]) == CURVES
    points = row.Scalars("score/value")
    steps = [point.step for point in points]
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == 999 and len(steps) <= MAX_POINTS
    assert all(p.value == pytest.approx(e.curves["value"][p.step, 1].item(), rel=1e-5) for p in points)
    started, duration = float(e.started[1]), float(e.duration[1])
    assert [points[0].wall_time, points[-1].wall_time] == pytest.approx([started, started + duration], abs=0.01)


def test_the_mean_is_over_all_rows_of_all_batches_logged_or_not(tmp_path, explanation):
    one, two = explanation(names=["a-1", "b-1", "c-1"], classes="abc"), explanation(names=["d-1"], classes="d")
    two.curves = {k: v + 1 for k, v in two.curves.items()}
    record(tmp_path, TENSORBOARD, one, two, limit=2)
    expected = (one.curves["score"].sum(1) + two.curves["score"].sum(1)) / 4
    result = [point.value for point in events(tmp_path / "tensorboard/mean").Scalars("loss/score")]
    assert result == pytest.approx(expected.tolist(), rel=1e-5)
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"a-1", "b-1", "mean"}


@pytest.mark.parametrize("frames", [1, 2, 6, 40])  # 1: of an explainer
def test_images_are_few_and_start_and_end_right(tmp_path, explanation, frames):
    e = explanation(steps=200, frames=frames)
    e.steps[:] = e.iterations[-1]
    record(tmp_path, TENSORBOARD, e)
    row = events(tmp_path / "tensorboard/cup-1-mug")
    pictures = ["pictures/evolution", "pictures/panel"] + ["pictures/animation"] * (frames > 1)
    assert sorted(row.Tags()["images"]) == sorted(pictures)
    for tag in row.Tags()["images"]:
        images = row.Images(tag)
        assert len(images) <= MAX_IMAGES and images[-1].step == e.iterations[-1]
        picture = Image.open(io.BytesIO(images[0].encoded_image_string))
        assert picture.size == (images[0].width, images[0].height)
        if tag.endswith("evolution"):
            assert images[0].step == 0 and picture.size == (3 * 56, 40)
        if tag.endswith("animation"):
            assert images[0].encoded_image_string.startswith(b"RIFF") and picture.n_frames == frames
    histograms = row.Histograms("mask/saliency")
    assert [h.step for h in histograms] == e.iterations
    assert histograms[0].histogram_value.num == e.frame_evidence[0, 0].numel()


@pytest.mark.parametrize("iterations", [[0], [0, 1], list(range(301)), [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233]])
def test_chosen_frames_are_geometric(iterations):
    frames = geometric_frames(iterations)
    assert frames[0] == 0 and frames[-1] == len(iterations) - 1 and len(frames) == len(set(frames)) <= 10
    if len(iterations) > 10:
        assert sum(iterations[f] <= 30 for f in frames) >= 5


def test_hyperparameters_are_those_of_the_run_with_its_metrics(tmp_path, explanation):
    record(tmp_path, TENSORBOARD, explanation())
    assert not [tag for tag in events(tmp_path / "tensorboard/cup-1-mug").summary_metadata if "hparams" in tag]
    means = events(tmp_path / "tensorboard/mean")
    read = {tag: plugin_data_pb2.HParamsPluginData.FromString(means.SummaryMetadata(tag).plugin_data.content)
            for tag in ("_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info")}  # fmt: skip
    started = read["_hparams_/session_start_info"].session_start_info.hparams
    assert started["lambda_tv"].number_value == 0.2 and started["mask"].string_value == "grid" and "none" not in started
    assert {m.name.tag for m in read["_hparams_/experiment"].experiment.metric_infos} == METRICS  # road has no value


def test_a_continued_run_replaces_its_summary_and_keeps_its_rows(tmp_path, explanation):
    record(tmp_path, TENSORBOARD, explanation(names=["a-1"], classes="a"), text="a: 1")
    record(tmp_path, TENSORBOARD, explanation(names=["b-1"], classes="b"), text="a: 2")
    for run in ("a-1", "b-1", "mean"):
        assert len(list((tmp_path / "tensorboard" / run).iterdir())) == 1
    texts = events(tmp_path / "tensorboard/mean").Tensors("config/text_summary")
    assert [text.tensor_proto.string_val[0] for text in texts] == [b"a: 2"]


def test_csv(tmp_path, explanation):
    e = explanation()
    for _ in range(2):
        record(tmp_path, {"csv": CSVLogger}, e)
    with open(tmp_path / "csv/cat-2-tabby/metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert set(lines[0]) == CURVES | {"step"} and [int(line["step"]) for line in lines] == list(range(30))
    assert [float(line["loss/l1"]) for line in lines] == pytest.approx(e.curves["l1"][:, 1].tolist())
    assert yaml.safe_load((tmp_path / "csv/mean/hparams.yaml").read_text()) == {"lambda_tv": 0.2, "mask": "grid"}
    with open(tmp_path / "csv/mean/metrics.csv", newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["metric/deletion"]) == 0.25


@pytest.mark.slow
def test_mlflow_in_files(tmp_path, explanation, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    e = explanation()
    for _ in range(2):  # a continued run is the same run
        assert record(tmp_path, {"mlflow": partial(MLFlowLogger, experiment_name="mpx")}, e).writers
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("mpx").experiment_id])
    assert run.data.params == {"lambda_tv": "0.2", "mask": "grid"} and run.data.metrics["metric/deletion"] == 0.25
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "cat-2-tabby/loss/l1")[:30]
    assert [point.value for point in sorted(history, key=lambda p: p.step)] == pytest.approx(e.curves["l1"][:, 1].tolist())
    spent = (max(p.timestamp for p in history) - min(p.timestamp for p in history)) / 1000
    assert spent == pytest.approx(float(e.duration[1]), abs=0.01)
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "cat-2-tabby")}
    assert names == {f"cat-2-tabby/{name}" for name in ("animation.webp", "evolution", "panel.png")}


def wandb_records(path) -> bytes:
    """The content of a .wandb file, a LevelDB log: blocks of 32 KB of pieces with a header of 7 bytes each."""
    data, content, at = path.read_bytes(), b"", 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        end = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little")
        content += data[at + 7 : end]
        at = end
    return content


@pytest.mark.slow
def test_wandb_offline(tmp_path, explanation, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert record(tmp_path, {"wandb": partial(WandbLogger, offline=True, project="mpx")}, explanation()).writers
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = wandb_records(path)
    names = [*(f"{run}/{name}" for name in CURVES for run in ("cat-2-tabby", "mean")), *METRICS, "lambda_tv"]
    names += [f"cat-2-tabby/{name}" for name in ("evolution", "panel", "animation")]
    assert not [name for name in names if name.encode() not in data]
    kinds = {file.suffix for file in path.parent.rglob("files/media/**/*.*")}
    assert {".png", ".html", ".json"} <= kinds
    assert path.parent.name.endswith((tmp_path / "wandb/run_id.txt").read_text())


def test_any_other_logger_gets_scalars(tmp_path, explanation):
    logger = DummyLogger()
    logged = []
    logger.log_metrics = lambda metrics, step: logged.append((step, *metrics))
    assert record(tmp_path, {"own": lambda: logger}, explanation()).writers
    names = {name for _, *names in logged for name in names}
    assert names >= {f"{run}/{name}" for run in ("cup-1-mug", "mean") for name in CURVES} | METRICS


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_names_that_are_not_text(tmp_path, explanation, name):
    e = explanation(names=["\udcff\x1b\n日本-1"], classes=["\udcff"])
    factories = {"csv": CSVLogger, **TENSORBOARD}
    assert record(tmp_path, {name: factories[name]}, e).writers
    assert len(list((tmp_path / name).iterdir())) == 2


def test_a_logger_that_cannot_write_costs_one_warning_and_the_others_go_on(tmp_path, explanation, caplog):
    (tmp_path / "tensorboard").write_text("")
    with caplog.at_level(logging.WARNING, "mpx"):
        loggers = record(tmp_path, {**TENSORBOARD, "csv": CSVLogger}, explanation())
    assert [record.message for record in caplog.records if "logger=tensorboard is off" in record.message]
    assert len(caplog.records) == 1 and list(loggers.writers) == ["csv"] and (tmp_path / "csv/mean/metrics.csv").is_file()


def test_a_missing_package_is_one_sentence(tmp_path):
    def missing(self, **options):
        raise ModuleNotFoundError("No module named 'wandb'")

    class Missing(WandbLogger):
        __init__ = missing

    with pytest.raises(ValueError, match="logger=wandb needs a package"):
        RunLoggers(tmp_path, {"wandb": Missing})


def test_a_logger_that_cannot_be_made_is_one_sentence(tmp_path):
    def broken():
        raise KeyError("htp is no scheme\nof several lines")

    with pytest.raises(ValueError, match=r"logger=mine cannot be made .KeyError: .*options, logger.mine") as error:
        RunLoggers(tmp_path, {"mine": broken})
    assert "\n" not in str(error.value)


def test_every_rank_logs_its_rows(tmp_path, explanation, monkeypatch):
    """Under torchrun Lightning's loggers are silent on other ranks than 0; here each rank has rows of its own."""
    from pytorch_lightning.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    record(tmp_path, TENSORBOARD, explanation())
    assert (tmp_path / "tensorboard/cup-1-mug").is_dir() and rank_zero_only.rank == 1


def test_no_logger_makes_no_file_and_draws_nothing(tmp_path, explanation, monkeypatch):
    monkeypatch.setattr("mpx.runs.loggers.row_entry", None)
    record(tmp_path / "run", {}, explanation())
    assert not (tmp_path / "run").exists()


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.text += data


def test_a_name_is_text_in_tensorboard_too(explanation):
    """No element is made of it, and so no request; TensorBoard shows Markdown."""
    rows = [table_rows(explanation())[0] | {"image": name, "class": name} for name in HOSTILE]
    page = Elements(markdown_to_safe_html(results_markdown(rows)))
    assert {tag for tag, _ in page.tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert not any(attributes for _, attributes in page.tags)
    assert all(" ".join("".join(c for c in name if c.isprintable() or c == " ").split()) in page.text for name in HOSTILE)
    page = Elements(markdown_to_safe_html(code_markdown("\n".join(["a: 1", "```", *HOSTILE]))))
    assert [tag for tag, _ in page.tags] == ["pre", "code"]
    assert all(name in page.text for name in HOSTILE if "\u2028" not in name)  # which ends a line


def test_markdown_of_hostile_and_many_rows(explanation):
    row = table_rows(explanation())[0]
    lines = results_markdown([row | {"class": "a|b\nc\udcff"}] * 300).split("\n")
    assert "a\\|b c" in lines[2] and "100 more rows" in lines[-1] and len(lines) == 204
    assert len({line.replace("\\|", "").count("|") for line in lines[:-2]}) == 1
