"""What mpx costs: python scripts/benchmark.py [workers | metrics | torchray] [key=value ...]

By default, what an iteration costs beside the network's own forward and backward. Both are timed in turn in one process,
on the same network, memory format and batch size: mpx's iteration as the main job runs it (Lightning, jitter, mask,
regularizers, optimizer, history) and a bare loop of forward and backward to the input.

workers: images per second of two worker processes and of one, each with one thread. Whole commands on more and on fewer
images, in turn; their difference leaves out what a command costs however many images it has.

metrics: deletion and insertion of one image beside the forwards that they need, in batches of the same size, in turn.

torchray: experiment=extremal2019 beside torchray's extremal_perturbation (pip install torchray) on the same network at equal
iterations and areas, one and four, in turn, each in a process of its own: torchray takes an image at a time with its areas,
mpx eight images with theirs in one batch. Memory is what the process of one image's explanation needs at most, above network
and libraries.

Machines are noisy: quote the median of the ratios, with the machine and the versions.
"""

import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from mpx import config
from mpx.data import datasets
from mpx.explanation import Row, solve
from mpx.metrics import measure
from mpx.solver import shares, workers
from mpx.solver.module import fit
from mpx.solver.objective import Problem
from mpx.solver.search import Search

ROUNDS, STEPS = 9, 6  # pairs of timings; iterations in each, of which the first is not counted
FEW, MANY = 8, 72  # images; in fewer, one batch at the end is an eighth of all
AREAS, IMAGES, ITERATIONS, TURNS = (0.025, 0.05, 0.1, 0.2), 8, (2, 12), 5  # beside torchray
FIXED = ("threads=1", "device=cpu", "steps=20", "batch_size=4", "pictures=none", "log_images=0")


def main() -> None:
    if sys.argv[1:2] == ["workers"]:
        two_workers(sys.argv[2:])
    elif sys.argv[1:2] == ["metrics"]:
        metrics(sys.argv[2:])
    elif sys.argv[1:2] == ["torchray"]:
        torchray(sys.argv[2:])
    elif sys.argv[1:2] in (["seconds"], ["memory"]):  # a process of `torchray`
        areas = tuple(map(float, sys.argv[3].split(",")))
        print({"seconds": seconds, "memory": memory}[sys.argv[1]](sys.argv[2], sys.argv[4:], areas))
    else:
        iteration(sys.argv[1:])


def iteration(overrides: list[str]) -> None:
    cfg = config.compose(f"steps={STEPS}", *overrides)
    where = shares.device(cfg.device)
    classifier = config.classifier(cfg, where)
    photos = torch.rand(cfg.batch_size, 3, *classifier.preprocess.crop, device=where)
    targets = torch.zeros(cfg.batch_size, dtype=torch.long, device=where)
    names = [""] * cfg.batch_size
    make = config.trainer(cfg)

    def wait() -> float:
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def ours() -> float:
        ticks = []
        callback = pl.Callback()
        callback.on_train_batch_end = lambda *_: ticks.append(wait())
        fit(Search(problem), lambda: make(**workers.alone(where), callbacks=[callback]))
        return (ticks[-1] - ticks[0]) / (STEPS - 1)

    def bare() -> float:
        x = photos.contiguous(memory_format=torch.channels_last).requires_grad_()
        ticks = []
        for _ in range(STEPS):
            x.grad = None
            classifier.network(x)[:, 0].sum().backward()
            ticks.append(wait())
        return (ticks[-1] - ticks[0]) / (STEPS - 1)

    with classifier.frozen(classifier.preprocess.crop):
        problem = Problem(config.recipe(cfg), classifier, photos, targets, names)
        pairs = [(ours(), bare()) for _ in range(ROUNDS)]
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{classifier.name}, batch {cfg.batch_size}, {where} ({card}), torch {torch.__version__}, {platform.machine()}")
    for name, times in zip(("mpx iteration", "forward + backward"), zip(*pairs)):
        low, middle, high = (1e3 * f(times) for f in (min, statistics.median, max))
        print(f"{name:<20} {middle:8.1f} ms   ({low:.1f} to {high:.1f})")
    report("ratio, pair by pair", [a / b for a, b in pairs])


def two_workers(overrides: list[str]) -> None:
    photo = datasets.sample()[1].path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(MANY):
            (Path(folder) / f"{i}.png").write_bytes(photo)

        def seconds(count: int, images: int) -> float:
            start = time.perf_counter()
            options = [f"trainer.devices={count}", f"limit={images}", f"hydra.run.dir={folder}/{count}-{images}-{start}"]
            command = [sys.executable, Path(__file__).with_name("run.py"), f"images={folder}", *FIXED, *options, *overrides]
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - start

        def rate(count: int) -> float:
            return (MANY - FEW) / (seconds(count, MANY) - seconds(count, FEW))

        pairs = [(rate(2), rate(1)) for _ in range(3)]
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {platform.machine()}, images of 20 steps per second")
    report("two workers", [a for a, _ in pairs])
    report("one worker", [b for _, b in pairs])
    report("ratio, pair by pair", [a / b for a, b in pairs])


def metrics(overrides: list[str]) -> None:
    cfg = config.compose("metric=[deletion,insertion]", *overrides)
    where, chosen = shares.device(cfg.device), config.metrics(cfg)
    classifier = config.classifier(cfg, where)
    size, target = classifier.preprocess.crop, torch.zeros(1, dtype=torch.long, device=where)
    photo, saliency = torch.rand(1, 3, *size, device=where), torch.rand(1, 1, *size, device=where)
    most, count = cfg.metrics.deletion.pictures, math.ceil(math.prod(size) / size[1]) + 1
    batches = [photo.repeat(min(most, count - k), 1, 1, 1) for k in range(0, count, most)]

    def ours() -> None:
        measure(chosen, saliency, classifier=classifier, images=photo, targets=target)

    def bare() -> None:
        with torch.no_grad():
            for batch in 2 * batches:
                classifier(batch).softmax(1)[:, 0].tolist()  # waits for the device

    def seconds(call: Callable) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    with classifier.frozen(size):
        bare()
        pairs = [(seconds(ours), seconds(bare)) for _ in range(TURNS)]
    print(f"{classifier.name}, {2 * count} pictures, {where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    report("deletion + insertion, s", [a for a, _ in pairs])
    report("forwards, s", [b for _, b in pairs])
    report("ratio, pair by pair", [a / b for a, b in pairs])


def extremal(overrides: list[str], areas: tuple, iterations: int, images: int) -> dict[str, Callable]:
    """What finds masks of these areas: of so many images by mpx, of one by torchray."""
    from torchray.attribution.extremal_perturbation import extremal_perturbation

    cfg = config.compose("experiment=extremal2019", f"steps={iterations}", f"area={list(areas)}", *overrides)
    recipe, where = config.recipe(cfg), shares.device(cfg.device)
    classifier = config.classifier(cfg, where)
    photos = torch.rand(images, 3, *classifier.preprocess.crop)
    rows = [Row(photo, 0, "", area) for photo in photos for area in areas]
    normalised = classifier.scale * photos[:1].to(where) + classifier.shift

    def ours():
        with classifier.frozen(photos.shape[2:]):
            solve(recipe, classifier, rows, 2, partial(fit, trainer=partial(config.trainer(cfg), **workers.alone(where))))

    return {"mpx": ours, "torchray": lambda: extremal_perturbation(
        classifier.network.eval(), normalised, 0, areas=list(areas), max_iter=iterations)}  # fmt: skip


def torchray(overrides: list[str]) -> None:
    """Each in a process of its own, in turn, as its users run it: mpx's workers keep freed memory."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, ms per iteration and image")
    for areas in (AREAS[2:3], AREAS):
        pairs = [[float(apart("seconds", which, overrides, areas)) for which in ("mpx", "torchray")] for _ in range(TURNS)]
        print(f"areas {', '.join(map(str, areas))}")
        report("mpx", [1e3 * a for a, _ in pairs])
        report("torchray", [1e3 * b for _, b in pairs])
        report("ratio, pair by pair", [a / b for a, b in pairs])
    for which in ("mpx", "torchray"):
        print(f"{which}, one image: {apart('memory', which, overrides, AREAS)}")


def apart(what: str, which: str, overrides: list[str], areas: tuple) -> str:
    command = [sys.executable, __file__, what, which, ",".join(map(str, areas)), *overrides]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def seconds(which: str, overrides: list[str], areas: tuple) -> float:
    """Of an iteration of one image; the difference of two runs leaves out what is prepared once."""
    images = 1
    if which == "mpx":
        images = IMAGES
        shares.keep_freed_memory()
    runs, spent = [extremal(overrides, areas, n, images)[which] for n in (1, *ITERATIONS)], []
    for run in runs:  # the first is not counted
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return (spent[2] - spent[1]) / (ITERATIONS[1] - ITERATIONS[0]) / images


def memory(which: str, overrides: list[str], areas: tuple) -> str:
    run, before = extremal(overrides, areas, 2, 1)[which], _peak()
    run()
    return f"peak memory {(_peak() - before) / 1024:.0f} MiB"


def _peak() -> int:
    """KiB, of this process on Linux; getrusage's is that of its parent too."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def report(name: str, values: list[float]) -> None:
    print(f"{name:<20} {statistics.median(values):8.3f}      ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
