"""What a run of many images costs beside its search: the row `scale` of scripts/benchmark.py."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mpx.config_plan import compose_plan
from mpx.data.images import read_image
from mpx.learning.batching import solve
from mpx.learning.fitting import fit
from mpx.learning.rows import Row
from mpx.runs.launch import single_device
from mpx.runs.row_source import preprocessing

COUNTS = "1000,5000"
FEW = 16  # images of the command that the others are compared with: what a command costs at the start is in both
SEARCHED = 480  # images of the search alone
SIDE = 32  # px
RUN_SCRIPT = Path(__file__).with_name("run.py")
NETWORK = """from torch import nn
def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
OPTIONS = ("model=custom", "model.network=tiny.py:tiny", f"model.size={SIDE}", "model.mean=0.5", "model.std=0.25",
           "model.weights=null", "model.categories=null", "mask_size=8", "steps=2", "ranking=mask", "metric=[]",
           "device=cpu", "threads=1", "pictures=1")  # fmt: skip


def scale(arguments: list[str]) -> None:
    """Print the table. arguments: counts=1000,5000,50000 and overrides."""
    chosen = dict(argument.split("=", 1) for argument in arguments if argument.startswith("counts="))
    overrides = [argument for argument in arguments if not argument.startswith("counts=")]
    counts = [int(text) for text in chosen.get("counts", COUNTS).split(",")]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "tiny.py").write_text(NETWORK)
        options = [*OPTIONS, *overrides]
        few = [measure(home, FEW, options) for _ in range(2)][-1]  # the first one also reads Python's modules from the disk
        measured = [measure(home, count, options) for count in counts]
        search = search_seconds(home, options)  # last: a command's peak memory is at least what this process has by then
    columns = [to_costs(values, few, count, search) for values, count in zip(measured, counts)]
    print(f"{SIDE} px, 2 steps, pictures of one image; the search alone takes {1e3 * search:.2f} ms of CPU an image")
    print(f"{'':<36}" + "".join(f"{count:>12,}" for count in counts) + "   ratio to the next smaller")
    for name in columns[0]:
        values = [column[name] for column in columns]
        ratios = ", ".join(f"{b / a:.2f}" for a, b in zip(values, values[1:]) if a)
        print(f"{name:<36}" + "".join(f"{value:12.3f}" for value in values) + f"   {ratios}")


def to_costs(measured: dict[str, float], few: dict[str, float], count: int, search: float) -> dict[str, float]:
    """Return name -> value of the table's rows, from what `measure` returns of `count` and of FEW images."""

    def per_image(key: str) -> float:
        return (measured[key] - few[key]) / (count - FEW)

    return {
        "images per second": 1 / per_image("seconds"),
        "CPU above the search, ms per image": 1e3 * (per_image("cpu") - search),
        "resume, CPU ms per row": 1e3 * per_image("resume_cpu"),
        "resume, whole command, CPU s": measured["resume_cpu"],
        "peak memory, MiB": measured["memory"],
        "peak memory of the resume, MiB": measured["resume_memory"],
        **{f"{name}, MB": measured[name] / 1e6 for name in ("folder", "masks", "report", "events")},
        "files": measured["files"],
        "report opens, s": measured["opens"],
    }


def measure(home: str, count: int, options: Sequence[str]) -> dict[str, float]:
    """Run the command on `count` images, and again with nothing to do; return seconds, MiB, bytes and files."""
    photos = Path(home, f"photos{count}")
    shutil.rmtree(Path(home, f"run{count}"), ignore_errors=True)
    photos.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for k in range(count):
        image = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        image.save(photos / f"{k:05}.png", compress_level=1)
    folder = Path(home, f"run{count}")
    command = [sys.executable, str(RUN_SCRIPT), f"images={photos}", f"hydra.run.dir={folder}", *options]
    seconds, cpu, memory = process_cost(command, home)
    _, resume_cpu, resume_memory = process_cost(command, home)
    files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}

    def size(pattern: str) -> int:
        return sum(bytes_ for path, bytes_ in files.items() if path.match(pattern))

    assert json.loads((folder / "summary.json").read_text())["n"] == count
    return {
        "seconds": seconds, "cpu": cpu, "memory": memory, "resume_cpu": resume_cpu, "resume_memory": resume_memory,
        "folder": sum(files.values()), "masks": size("masks/*"), "report": size("report.html"),
        "events": size("tensorboard/mean/*"), "files": len(files), "opens": opening_seconds(folder / "report.html"),
    }  # fmt: skip


def process_cost(command: Sequence[str], folder: str) -> tuple[float, float, float]:
    """Return the wall seconds, CPU seconds and peak memory (MiB) of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def search_seconds(home: str, options: Sequence[str]) -> float:
    """Return the CPU seconds of the search of an image that is in memory: batches are solved as a worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.chdir(home)
    plan = compose_plan(f"images=photos{FEW}", *options)
    classifier = plan.build_classifier(torch.device("cpu"))
    images = [preprocessing(classifier)(read_image(item.path)) for item in plan.list_items()]

    def solve_batch() -> None:
        solve(plan.method, classifier, [Row(image, 0, "") for image in images],
              lambda batch: fit(batch, plan.build_trainer(**single_device(classifier.device))), 2)  # fmt: skip

    with classifier.frozen_and_folded(images[0][None]):
        solve_batch()
        start = time.process_time()
        for _ in range(SEARCHED // FEW):
            solve_batch()
        seconds = (time.process_time() - start) / SEARCHED
    torch.set_num_threads(threads)
    return seconds


def opening_seconds(report: Path) -> float:
    """Return the seconds until the first cards of a page are drawn in Chromium; NaN where there is no browser."""
    chromium = shutil.which("chromium")
    with suppress(ImportError):
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            if chromium:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page()
                page.goto(report.as_uri(), wait_until="commit")
                page.wait_for_selector(".card", timeout=120_000)
                seconds = page.evaluate(
                    "() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
                )
                browser.close()
                return seconds / 1e3
    return float("nan")
