"""The command line, typed as a user types it: what it leaves on disk, how it ends, and what it says of mistakes."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from planted import SQUARE

from mpx.config_errors import error_sentence
from mpx.config_plan import compose_plan

# for the tests that look at no picture
NO_PICTURES = [*SQUARE, "pictures=none", "log_images=0"]


def result(folder) -> Path:
    (run,) = (folder / "outputs").iterdir()
    return run


def table(run) -> list[dict]:
    return list(csv.DictReader((run / "results.csv").open()))


def test_a_run_leaves_its_folder(mpx, folder):
    code, out, err = mpx(*SQUARE, "images=photos")
    assert code == 0, err
    run = result(folder)
    subject = "net.py:SquareNet, game=dual perturbation=blur_gaussian mask=grid, 12 steps"
    assert f"explaining 3 images in {run}: {subject}\nSquareNet on cpu\n" in out
    rows = table(run)
    assert [row["image"] for row in rows] == ["p0", "p1", "p2"] and {row["class"] for row in rows} == {"checker board"}
    for row in rows:
        mask = np.load(run / row["mask"])
        assert mask["parameter"].shape == (8, 8) and mask["saliency"].shape == (32, 32)
        assert mask["value_after"] == pytest.approx(float(row["value_after"]), rel=1e-4)
        assert (1 - mask["mask"]).mean() == pytest.approx(float(row["area"]), abs=1e-3)
        name = Path(row["mask"]).stem
        assert Image.open(run / "panels" / f"{name}.png").width > 300
        assert Image.open(run / "evolution" / f"{name}.webp").is_animated
    summary = json.loads((run / "summary.json").read_text())
    assert (
        summary["n"] == 3 and summary["n_skipped"] == 0 and summary["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    assert len(list(run.glob("tensorboard/*/events.out.tfevents.*"))) == 4 and (run / ".hydra" / "overrides.yaml").exists()
    assert "checker board" in out and str(run) in out and not list(run.rglob("*.tmp"))
    assert "checker board" in (run / "report.html").read_text() and f"report    {run}/report.html" in out


def test_a_report_that_cannot_be_written_costs_a_warning(mpx, folder, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("mpx.report.html.write_report", fail)
    code, out, err = mpx(*SQUARE, "images=photos", "limit=1")
    assert code == 0 and (out + err).count("No space left") == 1 and len(table(result(folder))) == 1
    assert "numbers   " in out and "report    " not in out
    code, out, err = mpx(*SQUARE, "images=photos", "limit=1", "pictures=none", "hydra.run.dir=outputs/none")
    assert code == 0 and "report.html" not in out + err  # nor is one without pictures


def test_what_cannot_be_read_is_skipped_and_counted(mpx, folder):
    (folder / "photos" / "broken.png").write_bytes((folder / "photos" / "p0.png").read_bytes()[:200])
    code, out, err = mpx(*NO_PICTURES, "images=photos", "batch_size=2")
    run = result(folder)
    assert code == 3 and len(table(run)) == 3 and "broken" in out
    assert [row[0] for row in csv.reader((run / "skipped.csv").open())][1:] == ["broken"]
    assert json.loads((run / "summary.json").read_text())["n_skipped"] == 1
    for path in (folder / "photos").glob("p*.png"):
        path.unlink()
    code, out, err = mpx(*NO_PICTURES, "images=photos", "hydra.run.dir=outputs/none")
    assert code == 1 and "no image could be explained" in err


def test_a_list_of_targets_gives_a_mask_each(mpx, folder):
    code, _, err = mpx(*NO_PICTURES, "images=photos/p1.png", 'target=["checker board",0,top1]')
    assert code == 0, err
    assert [row["target"] for row in table(result(folder))] == ["1", "0"]


def test_labels_come_from_folders(mpx, folder):
    (folder / "set").mkdir()
    (folder / "photos").rename(folder / "set" / "nothing")
    code, _, err = mpx(*NO_PICTURES, "dataset=folder", "dataset.root=set", "target=label", "limit=2")
    assert code == 0, err
    assert [row["class"] for row in table(result(folder))] == ["nothing", "nothing"]


def test_a_multirun_is_a_folder_for_each(mpx, folder):
    code, _, err = mpx(*NO_PICTURES, "images=photos/p0.png", "-m", "mask_size=4,8", "hydra.sweep.dir=sweep")
    assert code == 0, err
    sizes = sorted(np.load(path)["parameter"].shape[0] for path in (folder / "sweep").glob("*/masks/*.npz"))
    assert sizes == [4, 8]


def test_a_failed_job_shows_in_the_exit_code_of_a_sweep_with_skipped_images(mpx, folder):
    (folder / "photos" / "broken.png").write_bytes(b"")
    code, _, err = mpx("-m", *NO_PICTURES, "images=photos", "mask_size=99,8", "hydra.sweep.dir=sweep")
    assert code == 1 and "mask_size=99" in err


def test_nothing_of_the_users_own_is_removed(mpx, folder):
    (folder / "parts").mkdir()
    (folder / "parts" / "mine.csv").write_text("mine")
    code, _, err = mpx(*NO_PICTURES, "images=photos", "hydra.run.dir=.")
    assert code == 0 and (folder / "parts" / "mine.csv").read_text() == "mine", err


def test_snapshots_that_nobody_sees_are_not_made_and_change_nothing(mpx, folder):
    for name, pictures in (("seen", "all"), ("unseen", "none")):
        mpx(*SQUARE, "images=photos", "log_images=0", f"pictures={pictures}", f"hydra.run.dir={name}")
    for path in (folder / "seen" / "masks").iterdir():
        one, other = np.load(path), np.load(folder / "unseen" / "masks" / path.name)
        assert all((one[k] == other[k]).all() for k in ("parameter", "saliency", "curves", "value_after"))
    assert not (folder / "unseen" / "panels").exists()


@pytest.mark.slow
def test_a_failing_job_leaves_the_others_running(mpx, folder):
    code, _, err = mpx("-m", *NO_PICTURES, "images=photos/p0.png", "mask_size=99,8", "hydra.sweep.dir=sweep")
    assert code == 1 and "mask_size=99" in err and len(list((folder / "sweep").glob("*/masks/*.npz"))) == 1


def test_the_same_command_gives_the_same_masks(mpx, folder):
    for name in ("one", "two"):
        mpx(*NO_PICTURES, "images=photos", "noise=0.1", f"hydra.run.dir=outputs/{name}")
    for path in (folder / "outputs" / "one" / "masks").iterdir():
        a, b = (np.load(folder / "outputs" / name / "masks" / path.name)["parameter"] for name in ("one", "two"))
        assert (a == b).all()


def test_help_is_a_menu_and_cfg_shows_the_config(mpx, folder):
    code, out, _ = mpx("--help")
    assert code == 0 and "blur_median" in out and "lambda_tv=0.2" in out and len(out.splitlines()) < 120
    code, out, _ = mpx("--cfg", "job", "perturbation=blur_median", "lambda_tv=0.5")
    assert code == 0 and "lambda_tv: 0.5" in out and "kernel_size: 11" in out
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize("options, names", [("kernel_size=10", "kernel_size=10 must be odd"), ("kernel_size=99", "at most")])
def test_a_kernel_that_cannot_be_is_one_sentence(mpx, folder, options, names):
    arguments = [a for a in SQUARE if "sigma" not in a]
    code, _, err = mpx(*arguments, "images=photos", "perturbation=blur_median", f"perturbation.{options}")
    assert code == 1 and names in err and len(err.strip().splitlines()) == 1


def test_a_label_that_is_no_class_skips_that_image(mpx, folder):
    for label, photo in (("nothing", "p0"), ("weird", "p1")):
        (folder / "set" / label).mkdir(parents=True)
        (folder / "photos" / f"{photo}.png").rename(folder / "set" / label / f"{photo}.png")
    code, out, err = mpx(*NO_PICTURES, "dataset=folder", "dataset.root=set", "target=label")
    assert code == 3 and "weird" in out and len(table(result(folder))) == 1, err


VIT = """
from functools import partial
from torch.nn import LayerNorm
from torchvision.models import VisionTransformer

def build():
    return VisionTransformer(224, 16, 12, 3, 192, 768, norm_layer=partial(LayerNorm, eps=1e-6))
"""


def test_a_transformer_of_the_users_own_is_explained(mpx, tmp_path, monkeypatch):
    weights = Path(__file__).parents[3] / "shared" / "models" / "vit_tiny_patch16_224.pth"
    if not weights.exists():
        pytest.skip(f"{weights} is absent")
    (tmp_path / "vit.py").write_text(VIT)
    monkeypatch.chdir(tmp_path)
    own = ["model=custom", "model.network=vit.py:build", f"model.weights={weights}", "model.mean=0.5", "model.std=0.5"]
    code, _, err = mpx(*own, "model.resize=249", f"images={sample('coffee.png')}", "target=967", "steps=30")
    assert code == 0, err
    (row,) = table(result(tmp_path))
    assert float(row["value_before"]) > 0.8 and float(row["value_normalised"]) < 0.2


MODEL = [a for a in SQUARE if not a.startswith("model.network")]


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["stepz=3"], "there is no key stepz; near it: steps"),
        (["lr=abc"], "lr='abc' must be a number: learning rate"),
        (["lambda_tv=abc"], "lambda_tv='abc' must be a number"),
        (["perturbation=blur_medain"], "perturbation=blur_medain is not an option; near it: blur_median"),
        (["mask_size=[1"], "mask_size=[1: no viable alternative"),
        (["images=nowhere.jpg"], "nowhere.jpg"),
        (["images=photos/*.jpg"], "photos/*.jpg"),
        (["target=espreso"], "espreso"),
        (["target=2"], "2 is out of range"),
        (["threads=100000"], "threads=100000 must be from 1 to 1024"),
        (["target=label"], "label"),
        (["mask_size=64"], "mask_size=64 must be"),
        (["images=5"], "images=5 must be a file"),
        (["flip=3"], "flip=3 is a probability"),
        (["mask.sigma=-1"], "mask.sigma=-1 px must be 0"),
        (["scheduler=cosine", "scheduler.T_max=abc"], "scheduler"),
        (["perturbation.sigma=40"], "sigma=40 needs a radius"),
        (["device=cuda:7"], "device='cuda:7' is not on this machine"),
        (["dataset=folder", "dataset.root=photos"], "photos"),
        (["dataset=table", "dataset.file=photo.csv"], "did you mean photos"),
        (["hydra.run.dir=/proc/x"], "cannot use /proc/x"),
        (["hydra.run.dir=net.py"], "net.py"),
        (["--steps=3"], "keys are written without dashes, steps=3"),
        (["steps"], "an argument is key=value"),
        (["--steps", "3"], "keys are written without dashes, steps=3"),
        (["photos/p0.png"], "write images=photos/p0.png"),
        (["area=0.1"], "no operator uses an area; experiment=extremal2019"),
        (["lr=0"], "lr=0.0 must be a number above 0"),
        (["lr=1e38"], "lr=1e+38 must be a number above 0, at most 1e+06"),
        (["trainer.devices=[0,1]"], "trainer.devices=[0, 1] names GPUs, and device=cpu is cpu here"),
        (["trainer=gpus"], "trainer.devices=all need a GPU"),
        (["dataset=table"], "dataset.file has no value: give dataset.file="),
        (["model.size=0"], "size=0 must be whole numbers of pixels"),
        (["model.resize=-5"], "resize=-5 must be whole numbers of pixels"),
        (["regularizers.l1.warmup=-5"], "warmup=-5 must be 0 or more"),
        (["regularizers.tv.beta=-1"], "tv.beta=-1 must be above 0"),
        (["perturbation=noise", "perturbation.sigma=-1"], "sigma=-1 of the noise must be 0 or larger"),
    ],
)
def test_a_mistake_is_one_sentence(mpx, folder, arguments, names):
    given = SQUARE if any("images" in a or "dataset" in a for a in arguments) else [*SQUARE, "images=photos/p0.png"]
    code, out, err = mpx(*given, *arguments)
    assert code == 1 and names in err, err
    assert err.startswith("mpx: ") and len(err.strip().splitlines()) == 1 and "Traceback" not in out + err


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["lambda_tvv=0.2"], "no regularizer tvv; near it: tv"),
        (["+stepz=3"], "there is no key stepz; near it: steps"),
        (["perturbation.kernel=3"], "there is no key perturbation.kernel"),
        (["steps=2.5"], "steps=2.5 must be a whole number: optimizer steps"),
        (["model=resnet"], "model=resnet is not an option"),
        (["regularizer=[l1]", "lambda_tv=0.1"], "lambda_tv weighs a term that is not chosen"),
        (["perturbation=black,noise"], "Ambiguous value for argument"),
        (["perturbation.color=red"], "there is no key perturbation.color"),
        (["optimizer=adam", "optimizer._target_=torch.optim.Adagrad", "+optimizer.foo=1"], "optimizer.foo"),
        (["+trainer.gradient_clip_val=1"], "trainer.gradient_clip_val would mix rows"),
        (["trainer.max_epochs=2"], "trainer.max_epochs=2 must be 1"),
        (["game=remove"], "game='remove' must be one of"),
        (["batch_size=0"], "batch_size=0 must be a whole number, at least 1"),
        (["limit=0"], "limit=0 must be at least 1"),
        (["frames=1"], "frames=1 must be at least 2"),
        (["batch_size=null"], "batch_size=None must be a whole number, at least 1"),
        (["pictures=2.5"], "pictures=2.5 must be a number of images"),
        (["name=.."], "name='..' must be the name of a folder"),
        (["target=[]"], "target=[] names no class"),
        (["name="], "name='' must be the name of a folder"),
        (["+trainer.max_steps=3"], "trainer.max_steps would end the optimization"),
        (["+trainer.strategy=ddp"], "trainer.strategy would mix rows or devices"),
        (["parallel=images"], "parallel='images' must be rows or samples"),
        (["metric=sanity", "metrics.sanity.stages=0"], "metrics.sanity.stages=0 must be at least 1"),
        (["ranking.weight=-1"], "ranking.weight=-1 must be a finite number, at least 0"),
        (["explainer=rise", "explainer.keep=0"], "explainer.keep=0 must be a probability"),
        (["sufficient_share=7"], "sufficient_share=7.0 must be from 0 to 1"),
    ],
)
def test_a_mistake_is_found_before_anything_is_done(arguments, names):
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as mistake:
        compose_plan(*SQUARE, *arguments)
    sentence = error_sentence(mistake.value)  # which the command prints
    assert names in sentence and len(sentence.splitlines()) == 1


@pytest.mark.parametrize(
    "body, names",
    [
        ("return x.mean((2, 3))[:, :, None]", "model output must be (B, classes)"),
        ("return x.mean((2, 3)) * float('nan')", "NaN or infinite"),
        ("return x.detach().mean((2, 3)) + 0 * x.sum()", "gradient"),
        ("return x.detach().mean((2, 3))", "gradient"),
    ],
)
def test_a_model_that_cannot_be_explained_is_one_sentence(mpx, folder, body, names):
    Path("bad.py").write_text(f"import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        {body}\n")
    arguments = [a for a in MODEL if "categories" not in a]
    code, out, err = mpx(*arguments, "model.network=bad.py:Net", "images=photos/p0.png")
    assert code == 1 and names in err and len(err.strip().splitlines()) == 1, err


OWN = """
import pytorch_lightning as pl, torch
from net import SquareNet
class Net(SquareNet):
    def forward(self, x):
        return self.missing(x)
class Exits(SquareNet):
    def forward(self, x):
        raise SystemExit(0)
class Hungry(SquareNet):
    def forward(self, x):
        return torch.zeros(2**50)
def black(images, context):
    def draw(rng):
        return images @ torch.zeros(7, 7)
    return draw
def cover(saliency, context):
    raise ValueError("no cover")
class Stop(pl.Callback):
    def on_train_batch_end(self, *_):
        1 / 0
"""


@pytest.mark.parametrize(
    "arguments, sentence, frames",
    [
        (["model.network=own.py:Net"], "model failed with AttributeError: 'Net' object has no attribute", [6]),
        (["model.network=own.py:Exits"], "model failed with SystemExit: 0", [9]),
        (["perturbation=black", "~perturbation.color", "perturbation._target_=own.black"], "perturbation failed", [15]),
        (["+metrics.mine={_target_: own.cover, _partial_: true}"], "metrics.mine failed with ValueError: no cover", [18]),
        (["+callbacks.mine={_target_: own.Stop, _partial_: true}"], "callbacks.mine failed with ZeroDivisionError", [21]),
    ],
)
def test_an_error_in_the_users_code_names_the_part_and_shows_their_frames_only(
    mpx, folder, monkeypatch, arguments, sentence, frames
):
    monkeypatch.syspath_prepend(folder)
    (folder / "own.py").write_text(OWN)
    sys.modules.pop("own", None)
    given = [a for a in NO_PICTURES if "sigma" not in a or "black" not in arguments[0]]
    code, out, err = mpx(*given, "images=photos/p0.png", "steps=2", *arguments)
    assert code == 1 and err.startswith(f"mpx: {sentence}") and f" at own.py:{frames[-1]} (" in err.splitlines()[0], err
    assert [int(line) for line in re.findall(r'File "own.py", line (\d+), in', err)] == frames
    assert len(err.splitlines()) == 1 + 2 * len(frames) and "Traceback" not in out + err


def test_a_network_that_memory_does_not_hold_is_one_sentence(mpx, folder):
    (folder / "own.py").write_text(OWN)
    code, out, err = mpx(*NO_PICTURES, "images=photos/p0.png", "model.network=own.py:Hungry")
    assert code == 1 and err.startswith("mpx: out of memory with one image of 32x32 px"), err
    assert len(err.splitlines()) == 1 and "Traceback" not in out


@pytest.mark.slow
def test_a_reader_that_ends_stops_no_run(folder):
    """As `mpx ... | head -1` does."""
    script = Path(__file__).parents[2] / "scripts" / "run.py"
    arguments = [*NO_PICTURES, "images=photos/p0.png", "steps=2", "metric=[]", "logger=[]", "name=unread"]
    with subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.close()
        err = command.stderr.read()
    assert command.returncode == 0 and not err and len(table(folder / "outputs" / "unread")) == 1


@pytest.mark.slow
def test_the_main_job_on_a_real_photo_with_the_real_network(mpx, tmp_path, monkeypatch):
    """A few of the default steps on one bundled photo: the espresso is gone, by a small region that lies on the cup."""
    monkeypatch.chdir(tmp_path)
    code, out, err = mpx("steps=40", "images=" + str(sample("coffee.png")), "target=espresso")
    assert code == 0, err
    (row,) = table(result(tmp_path))
    assert row["class"] == "espresso" and float(row["value_before"]) > 0.9
    assert float(row["value_normalised"]) < 0.1 and float(row["area"]) < 0.3
    saliency = np.load(result(tmp_path) / row["mask"])["saliency"].astype(float)
    assert saliency[:140, 30:200].sum() / saliency.sum() > 0.6  # the cup: 47 % of the photo


def sample(name: str) -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data" / name


def test_a_photo_that_perturbing_does_not_change_has_no_share_of_a_drop(mpx, folder):
    Image.new("RGB", (32, 32), "gray").save("flat.png")
    code, _, err = mpx(*NO_PICTURES, "images=flat.png")
    assert code == 0, err
    said = json.loads((result(folder) / "summary.json").read_text())
    assert table(result(folder))[0]["value_normalised"] == "nan" and said["value_normalised"]["n"] == 0
    assert said["share_value_normalised_below_0.1"] is None
