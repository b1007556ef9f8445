"""Generated values at every key and in every file that mpx reads: each command answers, and so do scripts that read runs.

An answer is exit code 0, 1 or 3 within seconds, at most six lines on stderr and no traceback. A command that is still at
work some seconds after it began to explain must end by Ctrl-C. A hundred inputs by default, always the same ones; `-rP`
prints their number. More by

    MPX_EXAMPLES=2000 pytest -n 0 -rP -m slow tests/slow/test_property.py
"""

import json
import os
import resource
import runpy
import shutil
import signal
import time
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from commands import PLAIN, Command, done, workplace
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from tifffile import imwrite

EXAMPLES = int(os.environ.get("MPX_EXAMPLES", 32))
SECONDS, LINES, MEMORY = 20, 6, 6 * 2**30  # of an answer; of memory beyond that of the imported modules
AT_WORK = 5  # seconds after the beginning that a command may go on before it is stopped
SCRIPTS = Path(__file__).parents[2] / "scripts"
FEW = [*PLAIN, "metric=[]", "limit=1", "steps=1", "logger=[]"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
REPLACED = {"dataset": ("images",), "experiment": ("perturbation", "ranking", "noise", "flip", "jitter", "mask_size"),
            "augment": ("noise", "flip", "jitter")}  # keys of FEW that have no meaning with another option  # fmt: skip
LISTS = ("regularizer", "augment", "metric", "logger", "callbacks")
NETWORKS = """
class Segments(RoundingNet):
    def forward(self, x):
        return x[:, :2] * self.gain
class Embeds(RoundingNet):
    def forward(self, x):
        return self.body(x).mean((2, 3))[:, :5]
"""
MENU = hostile.menu()
ARGUMENTS = """-m --multirun --help -h --cfg -c job --config-dir --info --version --resolve --hydra-help --package -p a=b
steps = steps= steps=1,2 ~steps +a.b.c=1 mask_size=[1 experiment= sweep=seeds cluster=joblib hydra.mode=MULTIRUN""".split()


def each(examples=EXAMPLES):
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def limited(main, script: str = ""):
    """Call main, or run a script instead, under a limit of memory."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    runpy.run_path(str(SCRIPTS / script), run_name="__main__") if script else main()


class Answers:
    """Gives commands in a folder and judges their answers."""

    def __init__(self, home: Path):
        self.home, self.tried, self.bad, self.numbers = home, 0, [], count()

    def ask(self, *arguments: str, told: str = "", script: str = "") -> None:
        self.tried += 1
        name = f"x{next(self.numbers)}"
        named = [] if script or "name=done" in arguments else [f"name={name}"]
        command = Command(self.home, *arguments, *named, inside=partial(limited, script=script), **OFFLINE)
        if fault := self._fault(command):
            self.bad.append(f"{fault}: {' '.join(arguments)} {told}\n{command.err[-1500:]}")
        shutil.rmtree(self.home / "outputs" / name, ignore_errors=True)
        for file in command.files:
            file.unlink(missing_ok=True)

    def _fault(self, command: Command) -> str:
        allowed = (0, 1, 3)
        end = time.monotonic() + SECONDS
        while command.process.is_alive() and time.monotonic() < end and "explaining" not in command.out:
            command.process.join(0.1)
        command.process.join(AT_WORK)
        if command.process.is_alive():
            if "explaining" not in command.out:
                command.signal(signal.SIGKILL, group=True).end()
                return "no answer"
            allowed += (128 + signal.SIGINT,)  # or it has just come to its end
            command.signal(signal.SIGINT)
            command.process.join(SECONDS)
        if command.process.is_alive():
            command.signal(signal.SIGKILL, group=True).end()
            return "no end"
        err = command.err
        if command.process.exitcode not in allowed:
            return f"exit code {command.process.exitcode}"
        if len(err.splitlines()) > LINES or "Traceback" in err or "Error" in err and "mpx: " not in err:
            return "no sentence"
        return "no reason" if command.process.exitcode == 1 and not err.startswith("mpx: ") and "\nmpx: " not in err else ""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = workplace(tmp_path_factory.mktemp("hostile"), 2)
    with open(folder / "net.py", "a") as file:
        file.write(NETWORKS)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.fixture
def answers(home):
    asked = Answers(home)
    yield asked
    print(f"{asked.tried} inputs: {asked.tried - len(asked.bad)} answered well, {len(asked.bad)} badly")
    assert not asked.bad, "\n\n".join(asked.bad)


@each()
@given(data=st.data())
def test_values_of_keys(answers, data):
    group, option, keys = data.draw(st.sampled_from(MENU[:1]) | st.sampled_from(MENU))
    dropped = (group, *REPLACED.get(group, ()))
    base = [a for a in FEW if a.split("=")[0].split(".")[0] not in dropped]
    if group:
        base += [f"{group}=[{option}]" if group in LISTS else f"{group}={option}"]
    overrides = []
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True)):
        value = data.draw(
            st.sampled_from(hostile.TARGETS) | hostile.values() if key.endswith("_target_") else hostile.values()
        )
        if key == "trainer.devices" and isinstance(value, int) and 3 <= value < 10**6:
            value = 10**6  # processes
        prefix = data.draw(st.sampled_from(["", "", "", "", "+", "~"]))
        overrides.append(f"~{key}" if prefix == "~" else f"{prefix}{key}={hostile.written(value)}")
    answers.ask(*base, *overrides)


@each(max(1, EXAMPLES // 8))
@given(words=st.lists(hostile.text() | st.sampled_from(ARGUMENTS), min_size=1, max_size=3))
def test_arguments(answers, words):
    answers.ask(*FEW, *words)


TARGET = st.recursive(hostile.text() | st.sampled_from(hostile.NUMBERS) | st.integers(-1, 3) | st.none() | st.booleans(),
                      lambda inner: st.lists(inner, max_size=4), max_leaves=5)  # fmt: skip


@each(max(1, EXAMPLES // 8))
@given(target=TARGET)
def test_targets(answers, target):
    answers.ask(*FEW, f"target={hostile.written(target)}")


# ---- files


def sources(home: Path) -> dict[str, list[str]]:
    """Every kind of file that mpx reads, beside the arguments by which it's read; `home` gets them."""
    photo = Image.open(home / "photos" / "p00.png")
    found = {}
    for suffix in ("png", "jpg", "gif", "webp", "bmp", "ppm", "tif"):
        photo.save(home / f"photo.{suffix}")
        found[f"photo.{suffix}"] = [f"images=photo.{suffix}"]
    pixels = np.asarray(photo, np.float32) / 255
    np.save(home / "pixels.npy", pixels)
    np.savez(home / "pixels.npz", image=pixels)
    imwrite(home / "pages.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack")
    found |= {file: [f"images={file}"] for file in ("pixels.npy", "pixels.npz", "pages.tif")}
    for folder in ("regions", "arrays", "maps.png", "maps.npy", "maps.npz", "cfg/experiment", "cfg/perturbation"):
        (home / folder).mkdir(parents=True)
    square = np.zeros((32, 32), np.float32)
    square[8:16, 16:24] = 1
    grey = Image.fromarray((square * 255).astype(np.uint8))
    for path in ("regions/p00.png", "maps.png/p00.png"):
        grey.save(home / path)
    for path in ("arrays/p00.npy", "maps.npy/p00.npy"):
        np.save(home / path, square)
    np.savez(home / "maps.npz" / "p00.npz", saliency=square)
    segments = ["task=segmentation", "model.network=net.py:Segments", "target=1"]
    found["regions/p00.png"] = [*segments, "task.region=regions"]
    found["arrays/p00.npy"] = [*segments, "task.region=arrays/p00.npy"]
    found |= {
        f"maps.{kind}/p00.{kind}": ["explainer=files", f"explainer.folder=maps.{kind}"] for kind in ("png", "npy", "npz")
    }
    (home / "boxes.csv").write_text(
        "image,label,x0,y0,x1,y1\nphotos/p00.png,checker board,16,8,24,16\nphotos/p01.png,1,16,8,24,16\n"
    )
    (home / "boxes.json").write_text(json.dumps([{"file": "photos/p00.png", "label": 1, "boxes": [[16, 8, 24, 16]]}]))
    found |= {file: ["dataset=images", f"dataset.boxes={file}", "metric=[mass]"] for file in ("boxes.csv", "boxes.json")}
    polygon = [16, 8, 24, 8, 24, 16, 16, 16]
    runs = {"size": [32, 32], "counts": [0, 4, 28, 4, 988]}
    entries = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 18,
            "iscrowd": 0,
            "bbox": [16, 8, 8, 8],
            "area": 64,
            "segmentation": [polygon],
        },
        {"id": 2, "image_id": 1, "category_id": 18, "iscrowd": 1, "bbox": [0, 0, 4, 4], "area": 16, "segmentation": runs},
    ]
    image = {"id": 1, "file_name": "p00.png", "width": 32, "height": 32}
    (home / "coco.json").write_text(
        json.dumps({"images": [image], "annotations": entries, "categories": [{"id": 18, "name": "dog"}]})
    )
    (home / "classes.json").write_text(json.dumps({"dog": 1, "*": None}))
    coco = ["dataset=coco", "dataset.root=photos", "dataset.annotations=coco.json", "dataset.classes=classes.json"]
    found |= {file: [*coco, "target=label", "metric=[mass,iou]"] for file in ("coco.json", "classes.json")}
    voc = home / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "test.txt").write_text("p00\n")
    photo.save(voc / "JPEGImages" / "p00.jpg")
    box = "<bndbox><xmin>17</xmin><ymin>9</ymin><xmax>24</xmax><ymax>16</ymax></bndbox>"
    size = "<size><width>32</width><height>32</height></size>"
    entry = f"<object><name>checker board</name><difficult>0</difficult>{box}</object>"
    (voc / "Annotations" / "p00.xml").write_text(f"<annotation>{size}{entry}</annotation>")
    read_voc = ["dataset=voc", "dataset.root=.", "target=label", "metric=[mass]"]
    found |= {f"VOCdevkit/VOC2007/{file}": read_voc for file in ("Annotations/p00.xml", "ImageSets/Main/test.txt")}
    found |= archives(home, photo)
    (home / "set.csv").write_text("image,label\nphotos/p00.png,1\nphotos/p01.png,checker board\n")
    found["set.csv"] = ["dataset=table", "dataset.file=set.csv"]
    (home / "names.json").write_text('{"0": "nothing", "1": ["n1", "checker board"]}')
    found |= {file: [f"model.categories={file}"] for file in ("names.txt", "names.json")}
    import planted

    weights = planted.RoundingNet().state_dict()
    torch.save(weights, home / "weights.pt")
    save_file(weights, home / "weights.safetensors")
    found |= {file: [f"model.weights={file}"] for file in ("weights.pt", "weights.safetensors")}
    np.save(home / "vectors.npy", np.eye(5, dtype=np.float32)[:3])
    shutil.copy(home / "photos" / "p01.png", home / "other.png")
    similar = ["task=similarity", "model.network=net.py:Embeds", "model.categories=null", "target=0"]
    found["vectors.npy"] = [*similar, "task.embeddings=vectors.npy"]
    found["other.png"] = [*similar, "task.images=other.png"]
    lines = ["# @package _global_", "# Paper: none", "defaults:", "  - override /mask: smooth", "steps: 1", "lambda_l1: 0.1"]
    (home / "cfg" / "experiment" / "mine.yaml").write_text("\n".join([*lines, "mask:", "  sigma: 2", ""]))
    (home / "cfg" / "perturbation" / "mine.yaml").write_text(
        "# mine\n_target_: mpx.perturbations.blur.blur_gaussian\n_partial_: true\nsigma: 3\n"
    )
    found |= {f"cfg/{group}/mine.yaml": ["--config-dir=cfg", f"{group}=mine"] for group in ("experiment", "perturbation")}
    return found


def archives(home: Path, photo: Image.Image) -> dict[str, list[str]]:
    """The same for the files of datasets in their original layout."""
    birds, pets, imagenet = home / "birds", home / "pets" / "oxford-iiit-pet", home / "imagenet"
    for folder in ("birds/images", "birds/parts", f"{pets}/images", f"{pets}/annotations/trimaps", "imagenet/images"):
        (home / folder).mkdir(parents=True)
    lists = {"images.txt": "1 p00.png", "classes.txt": "1 001.checker_board", "image_class_labels.txt": "1 1",
             "train_test_split.txt": "1 0", "bounding_boxes.txt": "1 16.0 8.0 8.0 8.0", "parts/parts.txt": "1 back",
             "parts/part_locs.txt": "1 1 20.0 12.0 1"}  # fmt: skip
    for file, line in lists.items():
        (birds / file).write_text(f"{line}\n")
    photo.save(birds / "images" / "p00.png")
    breed = "checker_board_1"
    photo.save(pets / "images" / f"{breed}.jpg")
    Image.new("L", photo.size, 1).save(pets / "annotations" / "trimaps" / f"{breed}.png")
    (pets / "annotations" / "test.txt").write_text(f"{breed} 1 1 1\n")
    photo.save(imagenet / "images" / "a.png")
    (imagenet / "boxes.csv").write_text("ImageId,PredictionString\na,n1 16 8 24 16\n")
    (imagenet / "out.txt").write_text("b.png\n")
    measured = ["metric=[mass]", "target=1"]
    cub = ["dataset=cub", "dataset.root=birds", *measured]
    breeds = ["dataset=pets", "dataset.root=pets", *measured]
    kaggle = ["dataset=imagenet", "dataset.root=imagenet", "dataset.annotations=boxes.csv"]
    kaggle += ["dataset.exclude=imagenet/out.txt"]
    found = {f"birds/{file}": cub for file in lists}
    found |= {str((pets / "annotations" / file).relative_to(home)): breeds for file in ("test.txt", f"trimaps/{breed}.png")}
    found |= {f"imagenet/{file}": [*kaggle, *measured] for file in ("boxes.csv", "out.txt")}
    with suppress(ImportError):
        import datasets

        features = datasets.Features({"photo": datasets.Image(), "class": datasets.ClassLabel(names=["nothing", "board"])})
        datasets.Dataset.from_dict({"photo": [photo], "class": [1]}, features=features).save_to_disk(str(home / "saved"))
        written = sorted(path.name for path in (home / "saved").iterdir())
        found |= {f"saved/{file}": ["dataset=hf", "dataset.name=saved", "target=1"] for file in written}
    return found


@pytest.fixture(scope="module")
def files(home):
    """(path, its bytes, arguments) of each kind of file."""
    found = sources(home)
    return [(home / path, (home / path).read_bytes(), arguments) for path, arguments in found.items()]


def base(arguments: list[str]) -> list[str]:
    keys = {argument.split("=")[0] for argument in arguments}
    if "dataset=images" not in arguments and "dataset" in keys:
        keys.add("images")
    if "perturbation" in keys:
        keys.add("perturbation.sigma")
    return [argument for argument in FEW if argument.split("=")[0] not in keys] + arguments


def test_undamaged_files_are_read(home, files):
    for arguments in {tuple(arguments): arguments for _, _, arguments in files}.values():
        done(home, *base(arguments))


@each()
@given(data=st.data())
def test_damaged_files(answers, files, data):
    path, content, arguments = data.draw(st.sampled_from(files))
    damaged = data.draw(hostile.kinds_of_damage(path.name, content))
    hostile.put(path, damaged)
    answers.ask(*base(arguments), told=f"with {path.name} {str(damaged)[:300]}")
    hostile.restore(path, content)


@pytest.fixture(scope="module")
def run(home):
    """The folder of a finished run, and its command."""
    command = [a for a in FEW if not a.startswith(("pictures", "logger", "log_images", "limit"))]
    command += ["pictures=1", "logger=[csv]", "log_images=1", "name=done"]
    done(home, *command)
    shutil.copytree(home / "outputs" / "done", home / "kept")
    return home / "outputs" / "done", command


def damage(data, kept: Path, folder: Path) -> str:
    """Make a folder a copy of `kept` with one or two damaged files; return what was done."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    names = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file())
    told = []
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        damaged = data.draw(hostile.kinds_of_damage(name, (kept / name).read_bytes()))
        hostile.put(folder / name, damaged)
        told.append(f"with {name} {str(damaged)[:300]}")
    return "\n".join(told)


@each(max(1, EXAMPLES // 2))
@given(data=st.data())
def test_a_damaged_folder(answers, run, data):
    folder, command = run
    told = damage(data, answers.home / "kept", folder)
    answers.ask(*command, *data.draw(st.sampled_from([[], [], ["metric=[deletion]"], ["force=true"]])), told=told)


@each(max(1, EXAMPLES // 4))
@given(data=st.data())
def test_scripts_at_a_damaged_folder(answers, run, data):
    folder, _ = run
    told = damage(data, answers.home / "kept", folder)
    lines = {"compare.py": ["outputs/done", "kept"], "evaluate.py": ["run=outputs/done", "metric=[normalised_drop]"]}
    script = data.draw(st.sampled_from(sorted(lines)))
    answers.ask(*lines[script], told=f"{script} {told}", script=script)
