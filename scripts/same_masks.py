"""Compare the masks of two checkouts: python scripts/same_masks.py OLD NEW [preset ...] [key=value ...]

OLD and NEW are folders of checkouts, or folders that an earlier call of this script wrote (out=folder keeps NEW's masks).
Each preset (default: mpx's defaults and every experiment of NEW) explains the three bundled photos with 20 steps, on one
thread and with deterministic=true, in both. Prints for each preset the largest difference of
the learnt parameters and of the saliency; exits with 1 where one exceeds 1e-5.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mpx.cli.arguments import answer_help

FIXED = (
    "steps=20",
    "deterministic=true",
    "threads=1",
    "batch_size=3",
    "frames=2",
    "pictures=none",
    "log_images=0",
    "metric=[]",
)
VIT = ("model=timm", "model.name=vit_tiny_patch16_224")  # for presets that need a transformer; random weights
TOLERANCE = 1e-5


def main() -> None:
    answer_help(__doc__)
    if len(sys.argv) < 3:
        sys.exit("give two folders of checkouts: python scripts/same_masks.py OLD NEW (--help says more)")
    old, new = (Path(argument).resolve() for argument in sys.argv[1:3])
    options = [argument for argument in sys.argv[3:] if "=" in argument]
    presets = [argument for argument in sys.argv[3:] if "=" not in argument]
    presets = presets or ["default", *sorted(path.stem for path in (new / "configs" / "experiment").glob("*.yaml"))]
    out = next((Path(option[4:]).resolve() for option in options if option.startswith("out=")), None)
    overrides = [option for option in options if not option.startswith("out=")]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        kept = out or Path(folder) / "new"
        print(f"{'preset':<28} {'parameter':>10} {'saliency':>10}")
        for preset in presets:
            old_masks = masks_of(old, Path(folder) / "old", preset, overrides)
            new_masks = masks_of(new, kept, preset, overrides)
            differences = [largest_difference(old_masks, new_masks, array) for array in ("parameter", "saliency")]
            worst = max(worst, *differences)
            print(f"{preset:<28} {differences[0]:>10.2g} {differences[1]:>10.2g}", flush=True)
    sys.exit(worst > TOLERANCE)


def masks_of(source: Path, folder: Path, preset: str, overrides: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return row -> arrays of a preset's masks, computed by the checkout `source`, or stored in it."""
    if (source / preset / "masks").is_dir():
        folder = source
    else:
        arguments = [] if preset == "default" else [f"experiment={preset}"]
        arguments += [*model_of(source, preset), *FIXED, *overrides, f"hydra.run.dir={folder / preset}"]
        command = [sys.executable, str(source / "scripts" / "run.py"), *arguments]
        done = subprocess.run(
            command, cwd=source, env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{preset} in {source} failed: {done.stderr.strip()[-500:]}")
    rows = {}
    for path in sorted((folder / preset / "masks").glob("*.npz")):
        with np.load(path) as file:
            rows[path.stem] = {array: file[array].astype(np.float64) for array in ("parameter", "saliency")}
    return rows


def model_of(source: Path, preset: str) -> list[str]:
    """Return overrides that need no download: lite0, or a transformer with random weights where tokens are dropped."""
    if preset != "token_drop":
        return ["model=efficientnet_lite0"]
    has_weights = "weights:" in (source / "configs" / "model" / "timm.yaml").read_text()
    return [*VIT, "model.weights=null" if has_weights else "model.pretrained=false"]


def largest_difference(old: dict, new: dict, array: str) -> float:
    if old.keys() != new.keys():
        sys.exit(f"the rows differ: {sorted(old)} and {sorted(new)}")
    return max(float(np.abs(old[row][array] - new[row][array]).max()) for row in old)


if __name__ == "__main__":
    main()
