"""The README's figures: python scripts/figure.py [key=value ...], or python scripts/figure.py presets [key=value ...]

By default, panels and an animation of the bundled photos with the default configuration.

presets: a contact sheet of every published method on every photo. Each method is a run, outputs/presets/<name>, so the same
command continues where it stopped. key=value holds for all runs, e.g. images=photos limit=20. sheet=sheet.png is the file,
only=[fong2017,igos2020] chooses methods, columns=8 limits the photos. Methods that take hours for a photo on a CPU get the
fewer passes of LIGHTER; the sheet has the passes of each.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from mpx import explain
from mpx.config_schema import options as config_options
from mpx.data.datasets import sample
from mpx.models.zoo import efficientnet_lite0
from mpx.pictures.animation import animation_gif
from mpx.pictures.colours import overlay
from mpx.pictures.encoding import to_image
from mpx.pictures.panel import draw_sheet, panel_layout
from mpx.pictures.text import FAINT_INK, PAPER, draw_text, format_percent
from mpx.runs import files, store
from mpx.tasks.base import format_value

README = Path(__file__).parent / "readme"
LIGHTER = {
    "cartoonx2022": ["samples=2", "steps=100", "lr=0.02"],
    "fido2019_sdr": ["samples=2"],
    "fido2019_ssr": ["samples=2"],
    "rde2019": ["samples=4"],
}
SIDE, NAMES, LINE = 132, 190, 18  # px: of a picture, of the column of names, of a line of text


def main() -> None:
    if sys.argv[1:2] == ["presets"]:
        presets(sys.argv[2:])
        return
    e = explain(efficientnet_lite0(), [item.path for item in sample()], frames=8)
    draw_sheet(e, range(len(e))).save(README / "sheet.jpg", quality=90)
    files.write_file(README / "espresso.gif", animation_gif(e, e.classes.index("espresso")))
    print(e)


def presets(overrides: list[str]) -> None:
    """Run every published method and draw the contact sheet."""
    own_keys = ("sheet=", "only=", "columns=")
    options = OmegaConf.from_dotlist([o for o in overrides if o.startswith(own_keys)])
    shared = [o for o in overrides if not o.startswith(own_keys)]
    runs = []
    for name in options.get("only") or config_options("experiment"):
        arguments = [f"experiment={name}", "model=efficientnet_lite0", f"name=presets/{name}", "log_images=0"]
        arguments += [*LIGHTER.get(name, ()), *shared]
        process = subprocess.run([sys.executable, Path(__file__).with_name("run.py"), *arguments])
        if process.returncode not in (0, 3):  # 3: some images were skipped
            print(f"{name}: exit code {process.returncode}")
            continue
        runs.append((name, Path("outputs/presets") / name))
    sheet(runs, options.get("columns")).save(options.get("sheet") or README / "presets.jpg", quality=88)


def sheet(rows: list[tuple[str, Path]], columns: int | None) -> Image.Image:
    """A line of evidence over photo for each method, under the photos."""
    runs = [{row["image"]: row for row in map(store.load_row, sorted((at / "masks").glob("*.npz")))} for _, at in rows]
    names = sorted(set.intersection(*map(set, runs)))[:columns]
    photos = {name: _photo(rows[0][1], runs[0][name]) for name in names}
    height = SIDE + 2 * LINE
    page = Image.new("RGB", (NAMES + len(names) * (SIDE + 8), (len(rows) + 1) * height), PAPER)
    for k, name in enumerate(names):
        x, row = NAMES + k * (SIDE + 8), runs[0][name]
        page.paste(_small(photos[name]), (x, LINE))
        draw_text(page, (x, 2, SIDE), row["class"], f"p {format_value(row['quantity'], row['value_before'])}", 12)
        for j, run in enumerate(runs):
            row, y = run[name], (j + 1) * height
            page.paste(_small(overlay(photos[name], torch.from_numpy(row["saliency"]).float()[None])), (x, y + LINE))
            p, area = format_value(row["quantity"], row["value_after"]), format_percent(row["saliency"].mean())
            draw_text(page, (x, y + 2, SIDE), f"p {p}", area, 11, FAINT_INK)
    for j, ((name, _), run) in enumerate(zip(rows, runs)):
        row = next(iter(run.values()))
        spent = f"{row['passes']:.0f} passes" + (f" + {row['forwards']:.0f}" if row["forwards"] else "")
        for line, text in enumerate((name, row["game"], spent)):
            draw_text(page, (4, (j + 1) * height + LINE * (line + 1), NAMES - 10), text, "", 14 - 2 * bool(line))
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


if __name__ == "__main__":
    main()
