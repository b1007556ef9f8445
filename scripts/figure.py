"""The pictures of the READMEs: python scripts/figure.py [name ...]

Without a name, all that can be drawn in minutes on a CPU, without a network: animation, digits, mask_resolution, tasks and
two_classes. Each is written to scripts/readme, and drawn_with.json there says with which code: a test finds the pictures
that are older than the code that draws them.

python scripts/figure.py presets [key=value ...]: a contact sheet of the default and every published method on every photo.
Each method is a run, outputs/presets/<name>, so the same command continues where it stopped. key=value holds for all runs,
e.g. images=photos limit=20. sheet=sheet.png is the file, only=[fong2017,igos2020] chooses methods, columns=8 limits the
photos. Methods that take hours for a photo on a CPU get the fewer passes of LIGHTER; the sheet has the passes of each.
"""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from mpx import explain
from mpx.cli.arguments import answer_help
from mpx.config_schema import options as config_options
from mpx.data.datasets import sample
from mpx.data.synthetic import NAMES, synthetic
from mpx.explanation import Explanation
from mpx.models.synthetic import Synthetic
from mpx.models.zoo import efficientnet_lite0
from mpx.pictures.animation import animation_webp
from mpx.pictures.colours import as_rgb, outlined, overlay, overlay_two
from mpx.pictures.encoding import to_image
from mpx.pictures.panel import draw_sheet, panel_layout
from mpx.pictures.text import FAINT_INK, PAPER, draw_text, format_percent
from mpx.runs import files, store
from mpx.tasks.base import Task, format_value
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "scripts/readme"
DRAWING = ("mpx/pictures/colours.py", "mpx/pictures/encoding.py", "mpx/pictures/text.py")
CELLS = "mpx/pictures/cells.py"
DRAWN_WITH = README / "drawn_with.json"
PHOTOS = {item.name: item.path for item in sample()}
LIGHTER = {
    "cartoonx2022": ["samples=2", "steps=100", "lr=0.02"],
    "fido2019_sdr": ["samples=2"],
    "fido2019_ssr": ["samples=2"],
    "pixelrde2022": ["samples=2", "steps=100", "lr=0.02"],
    "rde2019": ["samples=4"],
    "waveletx2023": ["samples=2"],
}
SIDE, NAME_COLUMN, LINE = 132, 190, 18  # px: of a picture, of the column of names, of a line of text
TILE, GAP = 192, 8  # px: of a picture of tasks.jpg, and between them


class Figure(NamedTuple):
    """A picture of scripts/readme."""

    file: str
    draw: Callable[[], Image.Image | bytes]
    code: tuple[str | Callable[..., Any], ...] = ()  # what draws it, beside `draw` and DRAWING: files, functions of this one


def main() -> None:
    if sys.argv[1:2] == ["presets"]:
        presets(sys.argv[2:])
        return
    unknown = sorted({*sys.argv[1:]} - {*FIGURES})
    if unknown:
        sys.exit(f"{unknown[0]} is not a picture: there are {', '.join(FIGURES)}, and presets")
    for name in sys.argv[1:] or FIGURES:
        figure = FIGURES[name]
        drawn = figure.draw()
        files.write_file(README / figure.file, drawn if isinstance(drawn, bytes) else encode(drawn, figure.file))
        recorded = json.loads(DRAWN_WITH.read_text()) | {figure.file: digest(figure)}
        files.write_file(DRAWN_WITH, (json.dumps(recorded, indent=1, sort_keys=True) + "\n").encode())
        print(README / figure.file)


def encode(picture: Image.Image, name: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG" if name.endswith(".jpg") else "PNG", quality=85, optimize=True)
    return file.getvalue()


def digest(figure: Figure) -> str:
    """Return the digest of a picture and of the code that draws it."""
    found = sha256((README / figure.file).read_bytes())
    for part in (figure.draw, *DRAWING, *figure.code):
        found.update((ROOT / part).read_bytes() if isinstance(part, str) else inspect.getsource(part).encode())
    return found.hexdigest()[:16]


def two_classes() -> Image.Image:
    """Explain both classes of a picture of two photos."""
    page = Image.new("RGB", (224, 224))
    for x, (name, box) in zip((0, 112), {"chelsea": (130, 60, 250, 300), "coffee": (160, 0, 320, 320)}.items()):
        page.paste(Image.open(PHOTOS[name]).convert("RGB").resize((112, 224), Image.Resampling.LANCZOS, box), (x, 0))
    image = torch.from_numpy(np.array(page)).movedim(-1, 0)[None] / 255  # a photo would be resized and cropped
    e = explain(efficientnet_lite0(), image, ["tiger cat", "espresso"], mask_size=14)
    e.image_names = ["two photos side by side"] * 2
    return draw_sheet(e, range(2))


def animation() -> bytes:
    return animation_webp(explain(efficientnet_lite0(), PHOTOS["coffee"], frames=8), 0)


def digits() -> Image.Image:
    import digits

    digits.main(epochs=8)
    return Image.open(digits.FOLDER / "strip.png")


def mask_resolution() -> Image.Image:
    folder = Path("outputs/figures/mask_resolution")
    options = ["sweep=mask_resolution", "dataset=sample", "threads=1", "metric=[]", f"hydra.sweep.dir={folder}"]
    subprocess.run([sys.executable, Path(__file__).with_name("run.py"), *options], check=True)
    return Image.open(folder / "grid.png")


def tasks() -> Image.Image:
    """Draw a block for each task, two beside each other."""
    similarity = Similarity(texts=[*NAMES, "nothing"])
    blocks = [
        on_photo("classification", "why espresso?", PHOTOS["coffee"]),
        on_photo("difference", "why tiger cat (orange), why Egyptian cat (blue)?", PHOTOS["chelsea"], ["top1", "top2"]),
        on_photo("regression", "what raises the output for missile?", PHOTOS["rocket"], "missile", lambda_l1=1.0),
        on_textures("multilabel", "which pixels are cedar, which are delft?", 11, ["cedar", "delft"]),
        on_textures("segmentation", "why is the outlined region delft?", 3, task=Segmentation(background=4)),
        on_textures("detection", "why is there a box of cedar?", 2),
        on_textures("similarity", 'why is it near the text "amber"?', 8, task=similarity),
        on_textures("classification", "why basalt? (6 channels, 3 are shown)", 1, channels=6),
    ]
    width, height = blocks[0].size
    page = Image.new("RGB", (2 * width + 3 * GAP, -(-len(blocks) // 2) * height), PAPER)
    for k, picture in enumerate(blocks):
        page.paste(picture, (k % 2 * (width + 3 * GAP), k // 2 * height))
    return page


def on_photo(task: str, question: str, photo: Path, target: str | list[str] = "top1", **options: float) -> Image.Image:
    e = explain(efficientnet_lite0(), photo, target, task=task, **options)
    return block(task, question, "EfficientNet-Lite0", e)


def on_textures(
    name: str, question: str, number: int, target: str | list[str] = "top1", task: Task | None = None, channels: int = 3
) -> Image.Image:
    """Explain a synthetic image."""
    item = synthetic("outputs/synthetic", number + 1, 96, channels=channels)[number]
    e = explain(Synthetic(96, channels=channels), item.path, target, task=task or name, mask_size=24)
    return block(name, question, "synthetic network", e)


def block(task: str, question: str, network: str, e: Explanation) -> Image.Image:
    """Draw the photo, where the target is in it, the evidence of one target or of two, and the photo without the first."""
    photo, deleted = as_rgb(e.images[0]), as_rgb(e.perturbed[0])
    evidence = overlay(photo, e.saliency[0]) if len(e) == 1 else overlay_two(photo, *e.saliency[:2])
    before, after = (format_value(e.task.quantity, float(x[0])) for x in (e.value_before, e.value_after))
    pictures = (photo if e.region is None else outlined(photo, e.region[0], 1), evidence, deleted)
    shown = "orange deleted" if len(e) > 1 else "deleted"
    texts = ((e.task.quantity, before), ("evidence", " / ".join(map(format_percent, e.area.tolist()))), (shown, after))
    page = Image.new("RGB", (3 * TILE + 2 * GAP, TILE + 2 * LINE + 3 * GAP), PAPER)
    draw_text(page, (0, 2, page.width), f"task={task}: {question}", network, 14)
    for k, (picture, (left, right)) in enumerate(zip(pictures, texts)):
        x = k * (TILE + GAP)
        draw_text(page, (x, LINE + 4, TILE), left, right, 12, FAINT_INK)
        page.paste(to_image(picture).resize((TILE, TILE), Image.Resampling.LANCZOS), (x, 2 * LINE + 6))
    return page


def presets(overrides: list[str]) -> None:
    """Run the default and every published method, and draw the contact sheet."""
    own_keys = ("sheet=", "only=", "columns=")
    options = OmegaConf.from_dotlist([o for o in overrides if o.startswith(own_keys)])
    shared = [o for o in overrides if not o.startswith(own_keys)]
    runs = []
    for name in options.get("only") or ["default", *config_options("experiment")]:
        experiment = [] if name == "default" else [f"experiment={name}"]
        arguments = [*experiment, "model=efficientnet_lite0", f"name=presets/{name}", "log_images=0"]
        arguments += [*LIGHTER.get(name, ()), *shared]
        process = subprocess.run([sys.executable, Path(__file__).with_name("run.py"), *arguments])
        if process.returncode not in (0, 3):  # 3: some images were skipped
            print(f"{name}: exit code {process.returncode}")
            continue
        runs.append((name, Path("outputs/presets") / name))
    sheet(runs, options.get("columns")).save(options.get("sheet") or README / "presets.jpg", quality=88)


def sheet(rows: list[tuple[str, Path]], columns: int | None) -> Image.Image:
    """A line of evidence over photo for each method, under the photos."""
    stored = [map(store.load_row, sorted((at / "masks").glob("*.npz"))) for _, at in rows]
    runs = [{row["image"]: row for row in run if row} for run in stored]
    names = sorted(set.intersection(*map(set, runs)))[:columns]
    photos = {name: _photo(rows[0][1], runs[0][name]) for name in names}
    height = SIDE + 2 * LINE
    page = Image.new("RGB", (NAME_COLUMN + len(names) * (SIDE + 8), (len(rows) + 1) * height), PAPER)
    for k, name in enumerate(names):
        x, row = NAME_COLUMN + k * (SIDE + 8), runs[0][name]
        page.paste(_small(photos[name]), (x, LINE))
        draw_text(page, (x, 2, SIDE), row["class"], f"p {format_value(row['quantity'], row['value_before'])}", 12)
        for j, run in enumerate(runs):
            row, y = run[name], (j + 1) * height
            page.paste(_small(overlay(photos[name], torch.from_numpy(row["saliency"]).float()[None])), (x, y + LINE))
            p, area = format_value(row["quantity"], row["value_after"]), format_percent(row["area"])
            draw_text(page, (x, y + 2, SIDE), f"p {p}", area, 11, FAINT_INK)
    for j, ((name, _), run) in enumerate(zip(rows, runs)):
        row = next(iter(run.values()))
        spent = f"{row['passes']:.0f} passes" + (f" + {row['forwards']:.0f}" if row["forwards"] else "")
        for line, text in enumerate((name, row["game"], spent)):
            draw_text(page, (4, (j + 1) * height + LINE * (line + 1), NAME_COLUMN - 10), text, "", 14 - 2 * bool(line))
    return page


def _photo(run: Path, row: dict) -> torch.Tensor:
    """(3,H,W): the first picture of its panel, as the network was given it."""
    panel = np.asarray(Image.open(run / "panels" / f"{row['name']}.png").convert("RGB"))
    h, w = row["saliency"].shape
    _, size = panel_layout(w)
    top, left = size // 2 + round(1.5 * size), size
    return torch.from_numpy(panel[top : top + h, left : left + w].copy()).movedim(-1, 0) / 255


def _small(x: torch.Tensor) -> Image.Image:
    return to_image(x).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


FIGURES = {
    "animation": Figure("espresso.webp", animation, ("mpx/pictures/animation.py",)),
    "digits": Figure("digits.png", digits, (CELLS, "scripts/digits.py", "mpx/explain_callback.py")),
    "mask_resolution": Figure("mask_resolution.jpg", mask_resolution, (CELLS, "mpx/report/sweep_grid.py")),
    "tasks": Figure("tasks.jpg", tasks, (on_photo, on_textures, block)),
    "two_classes": Figure("two_classes.jpg", two_classes, ("mpx/pictures/panel.py",)),
}


if __name__ == "__main__":
    answer_help(__doc__)
    main()
