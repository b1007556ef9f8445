"""What mpx costs: python scripts/benchmark.py [ROW] [key=value ...]; without a row, `iteration` of three networks.

Whatever is compared is timed in turn, in one process unless told otherwise, and the ratio is taken pair by pair.

iteration: mpx's iteration as the main job runs it (Lightning, jitter, mask, regularizers, optimizer, history) beside a bare
loop of forward and backward to the input, on the same prepared network at the same batch size.

predecessor: the same iteration, of one image, beside that of the predecessor's loop as published: one image at a time, batch
norms as they are, pictures in the usual order. Its network is frozen here, too.

stop: experiment=quick, whose rows stop by themselves, beside 300 steps of the default search: passes, seconds, and the
objective of the masks as they are evaluated. Wants photos: dataset=imagenet dataset.root=...

run: the whole command on 100 photos, pictures and logging included, beside as many bare passes. Wants photos, too.

memory: the most that the command holds for 100 and for 1,000 images, each in a process of its own.

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
from torchvision.io import write_jpeg

from mpx.config_plan import compose_plan
from mpx.data import datasets
from mpx.data.images import read_image
from mpx.learning.batch import RowBatch
from mpx.learning.batching import RowSolver, prepare_batch, solve
from mpx.learning.fitting import fit
from mpx.learning.objective import Objective
from mpx.learning.rows import Row
from mpx.metrics.base import MetricContext, measure
from mpx.perturbations.blur import median_blur
from mpx.runs.devices import find_device, keep_freed_memory
from mpx.runs.launch import single_device
from mpx.runs.plan import RunPlan

ROUNDS, STEPS = 9, 6  # pairs of timings; iterations in each, of which the first is not counted
FEW, MANY = 8, 72  # images; in fewer, one batch at the end is an eighth of all
AREAS, IMAGES, ITERATIONS, TURNS = (0.025, 0.05, 0.1, 0.2), 8, (2, 12), 5  # beside torchray
RUN = Path(__file__).with_name("run.py")
NETWORKS = {
    "lite0": [],
    "resnet50": ["model=resnet50", "model.weights=null", "batch_size=8"],
    "vit_tiny": ["model=timm", "model.name=vit_tiny_patch16_224", "model.weights=null"],
}
FIXED = ("threads=1", "device=cpu", "steps=20", "batch_size=4", "pictures=none", "log_images=0")


def main() -> None:
    row, overrides = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if row in ("seconds", "memory_of"):  # a process of `torchray`
        areas = tuple(map(float, overrides[1].split(",")))
        print({"seconds": seconds, "memory_of": memory_of}[row](overrides[0], overrides[2:], areas))
        return
    rows = {"predecessor": predecessor, "stop": stop, "run": whole, "memory": memory, "workers": two_workers,
            "metrics": metrics, "torchray": torchray}  # fmt: skip
    keep_freed_memory()  # as workers do
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    if row in rows:
        rows[row](overrides)
    elif sys.argv[1:]:
        iteration(sys.argv[1:])
    else:
        for network in NETWORKS.values():
            iteration(network)


def now(where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def our_pass(problem: Objective, make: Callable, where: torch.device) -> float:
    """Seconds of an iteration of these rows."""
    ticks = []
    callback = pl.Callback()
    callback.on_train_batch_end = lambda *_: ticks.append(now(where))
    fit(RowBatch(problem), make(**single_device(where), callbacks=[callback]))
    return (ticks[-1] - ticks[0]) / (len(ticks) - 1)


def bare_pass(problem: Objective, steps: int = STEPS) -> float:
    """Seconds of forward and backward of as many pictures."""
    x = problem.images.contiguous(memory_format=torch.channels_last).requires_grad_()
    ticks = []
    for _ in range(steps):
        x.grad = None
        problem.logits(x)[:, 0].sum().backward()
        ticks.append(now(x.device))
    return (ticks[-1] - ticks[0]) / (steps - 1)


def random_rows(plan: RunPlan, classifier) -> Objective:
    where, size = classifier.device, plan.batch_size_on(classifier.device.type)
    photos = torch.rand(size, 3, *classifier.preprocess.crop, device=where)
    targets = torch.zeros(size, dtype=torch.long, device=where)
    return Objective(plan.method, classifier, photos, targets, [""] * size)


def iteration(overrides: list[str]) -> None:
    plan = compose_plan(f"steps={STEPS}", *overrides)
    where = find_device(plan.device)
    classifier, make = plan.build_classifier(where), plan.build_trainer
    with classifier.frozen_and_folded():
        problem = random_rows(plan, classifier)
        pairs = [(our_pass(problem, make, where), bare_pass(problem)) for _ in range(ROUNDS)]
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    print(f"{classifier.name}, batch {len(problem.images)}, {card}, precision {plan.method.precision}")
    report("mpx iteration, ms", [1e3 * a for a, _ in pairs])
    report("forward + backward", [1e3 * b for _, b in pairs])
    report("ratio, pair by pair", [a / b for a, b in pairs])


def predecessor(overrides: list[str]) -> None:
    for network in (overrides,) if overrides else (NETWORKS["lite0"], NETWORKS["resnet50"]):
        plan = compose_plan(f"steps={STEPS}", *network)
        where = find_device(plan.device)
        ours, theirs = (plan.build_classifier(where) for _ in range(2))
        theirs.network.to(memory_format=torch.contiguous_format)
        with ours.frozen_and_folded(), theirs.frozen():
            problem = random_rows(plan, ours)
            size, make = len(problem.images), plan.build_trainer
            pairs = [(our_pass(problem, make, where) / size, published(theirs, problem.images[:1])) for _ in range(ROUNDS)]
        print(f"{ours.name}, batch {size}, precision {plan.method.precision}, beside the predecessor's loop, ms per image")
        report("mpx iteration, ms", [1e3 * a for a, _ in pairs])
        report("predecessor's", [1e3 * b for _, b in pairs])
        report("ratio, pair by pair", [a / b for a, b in pairs])


def published(classifier, photo: torch.Tensor) -> float:
    """Seconds of an iteration of jacobgil/pytorch-explain-black-box, written from its description."""
    photo, blurred = (classifier.scale * x + classifier.shift for x in (photo, median_blur(photo, 11)))
    mask = torch.ones(1, 1, 28, 28, device=photo.device, requires_grad=True)
    upsample, adam, ticks = torch.nn.UpsamplingBilinear2d(photo.shape[2:]), torch.optim.Adam([mask], lr=0.1), []
    for _ in range(STEPS):
        m = upsample(mask)
        seen = photo * m + blurred * (1 - m) + 0.2 * torch.randn_like(photo)
        tv = mask.diff(dim=2).abs().pow(3).mean() + mask.diff(dim=3).abs().pow(3).mean()
        loss = 0.01 * (1 - mask).abs().mean() + 0.2 * tv + classifier.network(seen).softmax(1)[0, 0]
        adam.zero_grad()
        loss.backward()
        adam.step()
        mask.data.clamp_(0, 1)
        ticks.append(now(photo.device))
    return (ticks[-1] - ticks[0]) / (STEPS - 1)


def stop(overrides: list[str]) -> None:
    plain, quick = compose_plan("steps=300", *overrides), compose_plan("experiment=quick", *overrides)
    where = find_device(plain.device)
    classifier, make, found = plain.build_classifier(where), plain.build_trainer, []
    photos = [classifier.preprocess(read_image(item.path)) for item in plain.list_items()]
    with classifier.frozen_and_folded(), torch.no_grad():
        targets = [int(classifier(photo[None].to(where)).argmax()) for photo in photos]
    rows = [Row(photo, target, f"{i}") for i, (photo, target) in enumerate(zip(photos, targets))]

    def solved(plan: RunPlan, rows: list[Row]) -> tuple[float, float, dict[str, float]]:
        """Seconds and passes of a row, and the objective of each."""
        method, waiting, start = plan.method, list(rows), time.perf_counter()

        def next_rows(number: int) -> list[Row]:
            taken, waiting[:] = waiting[:number], waiting[number:]
            return taken

        solver = RowSolver(
            prepare=partial(prepare_batch, method, classifier, snapshots=2),
            optimize=lambda batch: fit(batch, make(**single_device(where))),
            next_rows=next_rows,
            batch_size=plan.batch_size_on(where.type),
            warn=print,
        )
        parts, objective = [solution.explanation for solution in solver], {}
        ended = time.perf_counter()
        for e in parts:
            problem = Objective(method, classifier, e.images.to(where), e.targets.to(where), e.image_names)
            total = problem.terms(e.parameter.to(where), 0, exact=True)["total"]
            objective |= dict(zip(e.image_names, total.tolist()))
        return (ended - start) / len(rows), sum(e.passes.sum().item() for e in parts) / len(rows), objective

    with classifier.frozen_and_folded():
        for part in (rows[::2], rows[1::2]):
            found.append((solved(quick, part), solved(plain, part)))
    print(f"{classifier.name}, {len(rows)} photos in two halves: {' '.join(overrides)}")
    photo_by_photo = [a[2][image] / b[2][image] for a, b in found for image in a[2]]
    found = [[(s, p, sum(each.values()) / len(each)) for s, p, each in pair] for pair in found]
    for k, name in enumerate(("seconds", "passes", "objective")):
        report(f"{name}, stopping", [a[k] for a, _ in found])
        report(f"{name}, 300 steps", [b[k] for _, b in found])
        report("ratio, half by half", [a[k] / b[k] for a, b in found])
    report("photo by photo", photo_by_photo)


def whole(overrides: list[str]) -> None:
    plan = compose_plan("limit=100", *overrides)
    where = find_device(plan.device)
    classifier, passes = plan.build_classifier(where), []
    with tempfile.TemporaryDirectory() as folder, classifier.frozen_and_folded():
        problem = random_rows(plan, classifier)
        passes.append(bare_pass(problem, 30))
        start = time.perf_counter()
        command(*overrides, "metric=[]", "limit=100", f"hydra.run.dir={folder}/run")
        spent = time.perf_counter() - start
        passes.append(bare_pass(problem, 30))
        with open(f"{folder}/run/results.csv") as file:
            images = len(file.readlines()) - 1
    bare = [images * plan.method.steps * one / len(problem.images) for one in passes]
    print(
        f"{classifier.name}, {images} photos, {plan.method.steps} steps, batch {len(problem.images)}; "
        "passes timed before and after"
    )
    report("run.py, s", [spent])
    report("forwards + backwards", bare)
    report("ratio", [spent / one for one in bare])


def memory(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for k in range(1000):
            pixels = torch.randint(256, (3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
            for images in (100, 1000)[k >= 100 :]:
                Path(folder, f"{images}").mkdir(exist_ok=True)
                write_jpeg(pixels, f"{folder}/{images}/{k:04}.jpg")
        peaks = []
        for images in (100, 1000):
            given = (f"images={folder}/{images}", "steps=3", "metric=[]", f"hydra.run.dir={folder}/run{images}", *overrides)
            process = subprocess.Popen([sys.executable, RUN, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            peaks.append(os.wait4(process.pid, 0)[2].ru_maxrss / 1024)
    report("100 images, MiB", peaks[:1])
    report("1,000 images, MiB", peaks[1:])
    report("ratio", [peaks[1] / peaks[0]])


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, RUN, *arguments], check=True, capture_output=True)


def two_workers(overrides: list[str]) -> None:
    photo = datasets.sample()[1].path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(MANY):
            (Path(folder) / f"{i}.png").write_bytes(photo)

        def seconds(count: int, images: int) -> float:
            start = time.perf_counter()
            options = [f"trainer.devices={count}", f"limit={images}", f"hydra.run.dir={folder}/{count}-{images}-{start}"]
            command(f"images={folder}", *FIXED, *options, *overrides)
            return time.perf_counter() - start

        def rate(count: int) -> float:
            return (MANY - FEW) / (seconds(count, MANY) - seconds(count, FEW))

        pairs = [(rate(2), rate(1)) for _ in range(3)]
    print("images of 20 steps per second")
    report("two workers", [a for a, _ in pairs])
    report("one worker", [b for _, b in pairs])
    report("ratio, pair by pair", [a / b for a, b in pairs])


def metrics(overrides: list[str]) -> None:
    plan = compose_plan("metric=[deletion,insertion]", *overrides)
    where, chosen = find_device(plan.device), plan.metrics
    classifier = plan.build_classifier(where)
    size, target = classifier.preprocess.crop, torch.zeros(1, dtype=torch.long, device=where)
    photo, saliency = torch.rand(1, 3, *size, device=where), torch.rand(1, 1, *size, device=where)
    most, count = plan.config["metrics"]["deletion"]["max_batch"], math.ceil(math.prod(size) / size[1]) + 1
    batches = [photo.repeat(min(most, count - k), 1, 1, 1) for k in range(0, count, most)]

    def ours() -> None:
        measure(chosen, saliency, MetricContext(classifier, photo, target))

    def bare() -> None:
        with torch.no_grad():
            for batch in 2 * batches:
                classifier(batch).softmax(1)[:, 0].tolist()  # waits for the device

    def seconds(call: Callable) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    with classifier.frozen_and_folded(size):
        bare()
        pairs = [(seconds(ours), seconds(bare)) for _ in range(TURNS)]
    print(f"{classifier.name}, {2 * count} pictures, {where}")
    report("deletion + insertion, s", [a for a, _ in pairs])
    report("forwards, s", [b for _, b in pairs])
    report("ratio, pair by pair", [a / b for a, b in pairs])


def extremal(overrides: list[str], areas: tuple, iterations: int, images: int) -> dict[str, Callable]:
    """What finds masks of these areas: of so many images by mpx, of one by torchray."""
    from torchray.attribution.extremal_perturbation import extremal_perturbation

    plan = compose_plan("experiment=extremal2019", f"steps={iterations}", f"area={list(areas)}", *overrides)
    method, where = plan.method, find_device(plan.device)
    classifier = plan.build_classifier(where)
    photos = torch.rand(images, 3, *classifier.preprocess.crop)
    rows = [Row(photo, 0, "", area) for photo in photos for area in areas]
    normalised = classifier.scale * photos[:1].to(where) + classifier.shift

    def ours():
        with classifier.frozen_and_folded(photos.shape[2:]):
            solve(method, classifier, rows, lambda batch: fit(batch, plan.build_trainer(**single_device(where))), 2)

    return {"mpx": ours, "torchray": lambda: extremal_perturbation(
        classifier.network.eval(), normalised, 0, areas=list(areas), max_iter=iterations)}  # fmt: skip


def torchray(overrides: list[str]) -> None:
    """Each in a process of its own, in turn, as its users run it: mpx's workers keep freed memory."""
    print("ms per iteration and image")
    for areas in (AREAS[2:3], AREAS):
        pairs = [[float(apart("seconds", which, overrides, areas)) for which in ("mpx", "torchray")] for _ in range(TURNS)]
        print(f"areas {', '.join(map(str, areas))}")
        report("mpx", [1e3 * a for a, _ in pairs])
        report("torchray", [1e3 * b for _, b in pairs])
        report("ratio, pair by pair", [a / b for a, b in pairs])
    for which in ("mpx", "torchray"):
        print(f"{which}, one image: {apart('memory_of', which, overrides, AREAS)}")


def apart(what: str, which: str, overrides: list[str], areas: tuple) -> str:
    command = [sys.executable, __file__, what, which, ",".join(map(str, areas)), *overrides]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def seconds(which: str, overrides: list[str], areas: tuple) -> float:
    """Of an iteration of one image; the difference of two runs leaves out what is prepared once."""
    images = 1
    if which == "mpx":
        images = IMAGES
        keep_freed_memory()
    runs, spent = [extremal(overrides, areas, n, images)[which] for n in (1, *ITERATIONS)], []
    for run in runs:  # the first is not counted
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return (spent[2] - spent[1]) / (ITERATIONS[1] - ITERATIONS[0]) / images


def memory_of(which: str, overrides: list[str], areas: tuple) -> str:
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
