"""The cost of mpx: python scripts/benchmark.py [ROW] [key=value ...]; without a row, `iteration` of three networks.

The compared programs are timed alternately, and the ratio is taken pair by pair.

iteration    mpx's iteration as a run does it (Lightning, jitter, mask, regularizers, optimizer, history), and forward
             and backward to the input alone, on the same prepared network at the same batch size.
detection    `iteration` of a detector with random weights, torchvision's lightest one.
compile      mpx's iteration with compile=true, and without.
predecessor  the same iteration per image, and the predecessor's loop as published: one image at a time, batch norms
             not folded, contiguous memory. The predecessor's network is frozen here, too.
stop         experiment=quick, whose rows stop by themselves, and 300 steps of the default method: seconds, passes and
             the objective of the evaluated masks. Needs photos: dataset=imagenet dataset.root=...
run          the whole command on 100 photos, pictures and logging included, and as many forwards and backwards. Needs
             photos.
memory       peak memory of the command for 100 and for 1,000 images, each in its own process.
workers      images per second of two worker processes and of one, each with one thread. The difference of two
             commands, on more and on fewer images, leaves out the constant cost of a command.
metrics      deletion and insertion of one image, and the forwards that they need, in batches of the same size.
torchray     experiment=extremal2019 and torchray's extremal_perturbation (pip install torchray), on the same network
             at equal iterations and areas (one and four), each in its own process: torchray takes one image at a
             time, mpx eight in a batch. Memory is the peak of explaining one image, without network and libraries.

optimum      how near methods come to the best sets of regions. All sets of a photo's regions, at most 12, are evaluated, so
             that the best set of each size is known: the one that keeps the class best alone, whose removal takes most
             of it, or both. A method's regions are chosen in the order of its saliency's means. Needs photos.
scale        what a run costs beside its search, of 1,000 and of 5,000 images of 32 px with a tiny network and two steps:
             CPU, memory, resuming, sizes, and the opening of report.html. Three minutes of a core; with
             counts=1000,5000,50000 fifteen.
matmul       a device's rate in bf16 matrix products, and the operations of one forward and backward of one image.
dispatch     what an iteration of every preset asks of an accelerator, counted without one: scripts/dispatch.py.

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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from dispatch import dispatch
from scale import scale
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import write_jpeg

from mpx.api import explain
from mpx.cli.arguments import answer_help
from mpx.config_plan import compose_plan
from mpx.data import datasets
from mpx.data.images import read_image
from mpx.data.targets import TargetContext
from mpx.devices import find_device, is_accelerator
from mpx.explainers.region_search import RegionPictures, all_sets, greedy_order
from mpx.learning.batch import RowBatch
from mpx.learning.batching import RowSolver, prepare_batch, solve
from mpx.learning.fitting import fit, quiet_lightning
from mpx.learning.learner import SilentCallback
from mpx.learning.memory import kept_memory
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.rows import Row, rows_of_image, stacked_places
from mpx.masks.superpixels import slic_labels
from mpx.metrics.base import MetricContext, measure
from mpx.models.classifier import Classifier
from mpx.perturbations.base import PerturbationContext, fully_perturbed
from mpx.perturbations.blur import median_blur
from mpx.randomness import RowRandom
from mpx.runs.launch import single_device
from mpx.runs.plan import RunPlan
from mpx.runs.row_source import preprocessing

PAIRS = int(os.environ.get("PAIRS", 9))  # pairs of timings of an iteration
MATRIX_SIDE = 8192  # of `matmul` on a GPU
PRODUCTS = 10  # in one timing
STEPS = 6  # iterations of a timing; the first is not counted
FEW_IMAGES = 8  # of `workers`
MANY_IMAGES = 72  # in fewer, one batch at the end is an eighth of all
AREAS = (0.025, 0.05, 0.1, 0.2)  # of `torchray`
TORCHRAY_IMAGES = 8  # in a batch of mpx
TORCHRAY_STEPS = (2, 12)  # the difference of the two is timed
REPETITIONS = 5  # of slow pairs
MAX_REGIONS = 12  # of `optimum`: 4096 sets
RANKED = {  # methods beside the greedy searches, whose saliency orders the regions of `optimum`
    "default": [],
    "quick": ["experiment=quick"],
    "gradcam": ["explainer=gradcam"],
    "rise": ["explainer=rise", "explainer.masks=500"],
    "center": ["explainer=center"],
}
RUN_SCRIPT = Path(__file__).with_name("run.py")
NETWORKS = {
    "lite0": [],
    "resnet50": ["model=resnet50", "model.weights=null", "batch_size=8"],
    "vit_tiny": ["model=timm", "model.name=vit_tiny_patch16_224", "model.weights=null"],
}
DETECTOR = ("model=torchvision", "model.name=ssdlite320_mobilenet_v3_large", "model.weights=null", "task=detection",
            "task.min_score=0", "batch_size=4")  # fmt: skip
WORKER_OVERRIDES = ("threads=1", "device=cpu", "steps=20", "batch_size=4", "pictures=none", "log_images=0")


def main() -> None:
    row, overrides = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if row in TORCHRAY_PROCESSES:
        program, areas, *overrides = overrides
        print(TORCHRAY_PROCESSES[row](program, overrides, tuple(map(float, areas.split(",")))))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    with kept_memory(), quiet_lightning():  # as workers do
        if row in ROWS:
            ROWS[row](overrides)
        elif row:
            iteration(sys.argv[1:])
        else:
            for network in NETWORKS.values():
                iteration(network)


# ---- an iteration


def iteration(overrides: list[str]) -> None:
    plan = compose_plan(f"steps={STEPS}", *overrides)
    device = find_device(plan.device)
    classifier = plan.build_classifier(device)
    with classifier.frozen():
        objective = random_rows(plan, classifier)
        pairs = [(iteration_seconds(objective, plan), pass_seconds(objective)) for _ in range(PAIRS)]
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{classifier.name}, batch {len(objective.images)}, {device_name}, precision {plan.method.precision}")
    report_pairs("mpx iteration, ms", "forward + backward", pairs, unit=1e3)


def detection(overrides: list[str]) -> None:
    iteration([*DETECTOR, *overrides])


def compiled(overrides: list[str]) -> None:
    for network in (overrides,) if overrides else (NETWORKS["lite0"], NETWORKS["vit_tiny"]):
        plans = [compose_plan(f"steps={STEPS}", *network, f"compile={choice}") for choice in ("true", "false")]
        classifier = plans[0].build_classifier(find_device(plans[0].device))
        with classifier.frozen():
            rows = [(random_rows(plan, classifier), plan) for plan in plans]
            start = time.perf_counter()
            iteration_seconds(*rows[0])  # compiles
            seconds = time.perf_counter() - start
            pairs = [(iteration_seconds(*rows[0]), iteration_seconds(*rows[1])) for _ in range(PAIRS)]
        print(f"{classifier.name}, batch {len(rows[0][0].images)}, {classifier.device}, compiled in {seconds:.0f} s")
        report_pairs("compiled, ms", "not compiled", pairs, unit=1e3)


def predecessor(overrides: list[str]) -> None:
    for network in (overrides,) if overrides else (NETWORKS["lite0"], NETWORKS["resnet50"]):
        plan = compose_plan(f"steps={STEPS}", "game=deletion", *network)
        device = find_device(plan.device)
        folded, unfolded = (plan.build_classifier(device) for _ in range(2))
        unfolded.network.to(memory_format=torch.contiguous_format)
        with folded.frozen(), unfolded.frozen():
            objective = random_rows(plan, folded)
            size, image = len(objective.images), objective.images[:1]
            pairs = [(iteration_seconds(objective, plan) / size, predecessor_seconds(unfolded, image)) for _ in range(PAIRS)]
        print(f"{folded.name}, batch {size}, precision {plan.method.precision}, beside the predecessor's loop, ms per image")
        report_pairs("mpx iteration, ms", "predecessor's", pairs, unit=1e3)


def random_rows(plan: RunPlan, classifier: Classifier) -> Objective:
    """Fold the classifier, and return a batch of random images, prepared for the plan's method."""
    device, size = classifier.device, plan.batch_size_on(classifier.device.type)
    images = torch.rand(size, 3, *preprocessing(classifier).crop, device=device)
    classifier.fold(images[:1])
    context = TargetContext(classifier.categories)
    rows = [row for image in images for row in rows_of_image(classifier, image, "", plan.target, [None], context)]
    targets, places = torch.tensor([row.target for row in rows], device=device), stacked_places(rows)
    area = plan.method.areas[0]
    areas = None if area is None else torch.full((size,), area, device=device)
    return Objective(plan.method, classifier, images, targets, [""] * size, areas, places)


class Clock(SilentCallback):
    """The time at the end of each iteration. Any other callback would have every term logged at every iteration."""

    def __init__(self, device: torch.device):
        self.device = device
        self.ticks: list[float] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        self.ticks.append(synchronised_time(self.device))


def iteration_seconds(objective: Objective, plan: RunPlan) -> float:
    """Return the seconds of one iteration of mpx on these rows."""
    device = objective.images.device
    clock = Clock(device)
    fit(RowBatch(objective), plan.build_trainer(**single_device(device), callbacks=[clock]))
    return (clock.ticks[-1] - clock.ticks[0]) / (len(clock.ticks) - 1)


def pass_seconds(objective: Objective, steps: int = STEPS) -> float:
    """Return the seconds of one forward and backward of as many images as an iteration shows the network."""
    images = objective.images.repeat(len(objective.method.views), 1, 1, 1)
    x = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    ticks = []
    for _ in range(steps):
        x.grad = None
        objective.output(x).flatten(1)[:, 0].sum().backward()
        ticks.append(synchronised_time(x.device))
    return (ticks[-1] - ticks[0]) / (steps - 1)


def predecessor_seconds(classifier: Classifier, image: Tensor) -> float:
    """Return the seconds of one iteration of jacobgil/pytorch-explain-black-box, written from its description."""
    image, blurred = (classifier.scale * x + classifier.shift for x in (image, median_blur(image, 11)))
    mask = torch.ones(1, 1, 28, 28, device=image.device, requires_grad=True)
    upsample = torch.nn.UpsamplingBilinear2d((image.shape[2], image.shape[3]))
    adam = torch.optim.Adam([mask], lr=0.1)
    ticks = []
    for _ in range(STEPS):
        m = upsample(mask)
        perturbed = image * m + blurred * (1 - m) + 0.2 * torch.randn_like(image)
        tv = mask.diff(dim=2).abs().pow(3).mean() + mask.diff(dim=3).abs().pow(3).mean()
        loss = 0.01 * (1 - mask).abs().mean() + 0.2 * tv + classifier.network(perturbed).softmax(1)[0, 0]
        adam.zero_grad()
        loss.backward()
        adam.step()
        mask.data.clamp_(0, 1)
        ticks.append(synchronised_time(image.device))
    return (ticks[-1] - ticks[0]) / (STEPS - 1)


def synchronised_time(device: torch.device) -> float:
    """Return the time once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul(overrides: list[str]) -> None:
    plan = compose_plan("batch_size=1", "game=deletion", *overrides)
    device = find_device(plan.device)
    classifier = plan.build_classifier(device)
    side = MATRIX_SIDE if is_accelerator(device) else MATRIX_SIDE // 16
    matrix = torch.rand(side, side, device=device, dtype=torch.bfloat16)

    def products() -> float:
        synchronised_time(device)
        return call_seconds(lambda: ([matrix @ matrix for _ in range(PRODUCTS)], synchronised_time(device)))

    seconds = [products() for _ in range(REPETITIONS + 1)][1:]
    with classifier.frozen(), FlopCounterMode(display=False) as counter:
        pass_seconds(random_rows(plan, classifier), steps=2)
        operations = counter.get_total_flops()
    with classifier.frozen(), FlopCounterMode(display=False) as counter:
        random_rows(plan, classifier)
        operations -= counter.get_total_flops()
    report("matmul, TFLOP/s", [2 * side**3 * PRODUCTS / s / 1e12 for s in seconds])
    report("one pass, GFLOP", [operations / 2 / 1e9])


# ---- stopping rule


class SolvedRows(NamedTuple):
    """The cost of one row in seconds and passes, and the objective of each image's mask."""

    seconds: float
    passes: float
    objectives: dict[str, float]


def stop(overrides: list[str]) -> None:
    default, quick = compose_plan("steps=300", *overrides), compose_plan("experiment=quick", *overrides)
    device = find_device(default.device)
    classifier = default.build_classifier(device)
    preprocess = preprocessing(classifier)
    images = [preprocess(read_image(item.path)) for item in default.list_items()]
    with classifier.frozen(), torch.no_grad():
        targets = [int(classifier(image[None].to(device)).argmax()) for image in images]
    rows = [Row(image, target, f"{i}") for i, (image, target) in enumerate(zip(images, targets))]
    with classifier.frozen_and_folded(images[0][None]):
        halves = (rows[::2], rows[1::2])
        pairs = [(solve_rows(quick, half, classifier), solve_rows(default, half, classifier)) for half in halves]
    print(f"{classifier.name}, {len(rows)} photos in two halves: {' '.join(overrides)}")
    costs = [[(s.seconds, s.passes, statistics.fmean(s.objectives.values())) for s in pair] for pair in pairs]
    for k, name in enumerate(("seconds", "passes", "objective")):
        values = [(a[k], b[k]) for a, b in costs]
        report_pairs(f"{name}, stopping", f"{name}, 300 steps", values, ratio="ratio, half by half")
    report("photo by photo", [a.objectives[image] / b.objectives[image] for a, b in pairs for image in a.objectives])


def solve_rows(plan: RunPlan, rows: Sequence[Row], classifier: Classifier) -> SolvedRows:
    """Learn the masks of rows with the plan's method."""
    method, device, start = plan.method, classifier.device, time.perf_counter()
    waiting = list(rows)

    def next_rows(count: int) -> list[Row]:
        first, waiting[:] = waiting[:count], waiting[count:]
        return first

    solver = RowSolver(
        prepare=partial(prepare_batch, method, classifier, snapshots=2),
        optimize=lambda batch: fit(batch, plan.build_trainer(**single_device(device))),
        next_rows=next_rows,
        batch_size=plan.batch_size_on(device.type),
        warn=print,
    )
    explanations = [solution.explanation for solution in solver]
    end = time.perf_counter()
    objectives: dict[str, float] = {}
    for e in explanations:
        objective = Objective(method, classifier, e.images.to(device), e.targets.to(device), e.image_names)
        total = objective.terms(e.parameter.to(device), 0, exact=True)["total"]
        objectives |= dict(zip(e.image_names, total.tolist()))
    passes = sum(e.passes.sum().item() for e in explanations) / len(rows)
    return SolvedRows((end - start) / len(rows), passes, objectives)


# ---- whole commands


def run(overrides: list[str]) -> None:
    plan = compose_plan("limit=100", *overrides)
    classifier = plan.build_classifier(find_device(plan.device))
    with tempfile.TemporaryDirectory() as folder, classifier.frozen():
        objective = random_rows(plan, classifier)
        seconds_before = pass_seconds(objective, 30)
        start = time.perf_counter()
        run_command(*overrides, "metric=[]", "limit=100", f"hydra.run.dir={folder}/run")
        command_seconds = time.perf_counter() - start
        seconds_after = pass_seconds(objective, 30)
        images = len(Path(folder, "run", "results.csv").read_text().splitlines()) - 1
    passes = images * plan.method.steps / len(objective.images)
    print(f"{classifier.name}, {images} photos, {plan.method.steps} steps, batch {len(objective.images)}")
    report("run.py, s", [command_seconds])
    report("forwards + backwards", [passes * seconds_before, passes * seconds_after])
    report("ratio", [command_seconds / (passes * seconds) for seconds in (seconds_before, seconds_after)])


def memory(overrides: list[str]) -> None:
    counts = (100, 1000)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            write_random_images(Path(folder, f"{count}"), count)
            options = (f"images={folder}/{count}", "steps=3", "metric=[]", f"hydra.run.dir={folder}/run{count}")
            command = [sys.executable, str(RUN_SCRIPT), *options, *overrides]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            peaks.append(os.wait4(process.pid, 0)[2].ru_maxrss / 1024)
    report("100 images, MiB", peaks[:1])
    report("1,000 images, MiB", peaks[1:])
    report("ratio", [peaks[1] / peaks[0]])


def write_random_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for k in range(count):
        random = torch.Generator().manual_seed(k)
        write_jpeg(torch.randint(256, (3, 256, 256), dtype=torch.uint8, generator=random), f"{folder}/{k:04}.jpg")


def workers(overrides: list[str]) -> None:
    photo = datasets.sample()[1].path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(MANY_IMAGES):
            Path(folder, f"{i}.png").write_bytes(photo)

        def command_seconds(count: int, images: int) -> float:
            start = time.perf_counter()
            options = (f"trainer.devices={count}", f"limit={images}", f"hydra.run.dir={folder}/{count}-{images}-{start}")
            run_command(f"images={folder}", *WORKER_OVERRIDES, *options, *overrides)
            return time.perf_counter() - start

        def images_per_second(count: int) -> float:
            return (MANY_IMAGES - FEW_IMAGES) / (command_seconds(count, MANY_IMAGES) - command_seconds(count, FEW_IMAGES))

        pairs = [(images_per_second(2), images_per_second(1)) for _ in range(3)]
    print("images of 20 steps per second")
    report_pairs("two workers", "one worker", pairs)


def run_command(*arguments: str) -> None:
    subprocess.run([sys.executable, RUN_SCRIPT, *arguments], check=True, capture_output=True)


# ---- metrics


def metrics(overrides: list[str]) -> None:
    plan = compose_plan("metric=[deletion,insertion]", *overrides)
    device = find_device(plan.device)
    classifier = plan.build_classifier(device)
    size, target = preprocessing(classifier).crop, torch.zeros(1, dtype=torch.long, device=device)
    image, saliency = torch.rand(1, 3, *size, device=device), torch.rand(1, 1, *size, device=device)
    max_batch = plan.config["metrics"]["deletion"]["max_batch"]
    count = math.ceil(math.prod(size) / size[1]) + 1  # points of one curve
    batches = [image.repeat(min(max_batch, count - k), 1, 1, 1) for k in range(0, count, max_batch)]

    def run_forwards() -> None:
        with torch.no_grad():
            for batch in 2 * batches:
                classifier(batch).softmax(1)[:, 0].tolist()  # waits for the device

    def run_metrics() -> None:
        measure(plan.metrics, saliency, MetricContext(classifier, image, target))

    with classifier.frozen_and_folded(image):
        run_forwards()
        pairs = [(call_seconds(run_metrics), call_seconds(run_forwards)) for _ in range(REPETITIONS)]
    print(f"{classifier.name}, {2 * count} pictures, {device}")
    report_pairs("deletion + insertion, s", "forwards, s", pairs)


def call_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# ---- the optimum of regions


def optimum(overrides: list[str]) -> None:
    """Print each method's values, the mean over the sizes of sets from 1 to n-1, and over photos."""
    plan = compose_plan(*overrides)
    device = find_device(plan.device)
    classifier = plan.build_classifier(device)
    methods = {name: compose_plan(*chosen, *overrides).method for name, chosen in RANKED.items()}
    values: dict[str, list[Tensor]] = {}
    for item in plan.list_items():
        image = preprocessing(classifier)(read_image(item.path)).to(device)
        for name, of_photo in photo_values(plan.method.perturbation, classifier, image, methods).items():
            values.setdefault(name, []).append(of_photo)
    photos = len(values["optimum"])
    print(f"{classifier.name}, top class of {photos} photos of at most {MAX_REGIONS} regions; mean over sizes")
    print(f"{'':<20} {'keep':>8} {'delete':>8} {'both':>8}   share of the optimum's gain over a random order, in both")
    best, chance = (torch.stack(values[name])[:, 2] for name in ("optimum", "random order"))
    for name, rows in values.items():
        table = torch.stack(rows)
        shares = (table[:, 2] - chance) / (best - chance)
        numbers = " ".join(f"{value:8.3f}" for value in table.mean(0).tolist())
        print(f"{name:<20} {numbers}   {shares.mean():6.2f}  ({shares.min():.2f} to {shares.max():.2f})")


def photo_values(
    perturbation: Callable, classifier: Classifier, image: Tensor, methods: dict[str, Method]
) -> dict[str, Tensor]:
    """Return for each method the probability kept, 1 - the probability left, and the mean of both, (3,)."""
    with classifier.frozen_and_folded(image[None]), torch.no_grad():
        target = classifier(image[None]).argmax(1)
        context = PerturbationContext(classifier, target, RowRandom([0], image.device))
        fill = fully_perturbed(perturbation, image[None], context)[0]
        labels = next(
            labels for n in range(MAX_REGIONS, 1, -1)
            if (labels := slic_labels(image, n, 10.0, 0.0, adaptive=True)).max() < MAX_REGIONS
        )  # fmt: skip
        pictures = RegionPictures(image, fill, labels.to(image.device), classifier, target[0])
        n = pictures.count
        sets = all_sets(n)
        kept = pictures.support(pictures.outputs(sets)).cpu()  # of the k-th set, whose regions are the bits of k
    table = torch.stack([kept, 1 - kept.flip(0), (kept + 1 - kept.flip(0)) / 2], 1)  # (2^n,3); flipped: of the complement

    def value_of_order(order: Sequence[int]) -> Tensor:
        return table[torch.tensor([2**i for i in order]).cumsum(0)[:-1]].mean(0)

    def both(chosen: Tensor) -> Tensor:
        return table[(chosen.long() * 2 ** torch.arange(n)).sum(1), 2]

    sizes = [sets.sum(1) == k for k in range(1, n)]
    values = {
        "optimum": torch.stack([table[size].amax(0) for size in sizes]).mean(0),
        "greedy": value_of_order(greedy_order(both, n)),
        "greedy, pending=3": value_of_order(greedy_order(both, n, pending=3)),
    }
    for name, method in methods.items():
        saliency = explain(classifier, image[None], target, method=method).saliency[0, 0].cpu()
        means = torch.stack([saliency[labels == i].mean() for i in range(n)])
        values[name] = value_of_order(means.argsort(descending=True).tolist())
    return values | {"random order": torch.stack([table[size].mean(0) for size in sizes]).mean(0)}


# ---- torchray


def torchray(overrides: list[str]) -> None:
    """Time each program in its own process, as its users run it: mpx's workers keep freed memory."""
    print("ms per iteration and image")
    for areas in (AREAS[2:3], AREAS):
        pairs = []
        for _ in range(REPETITIONS):
            texts = [run_torchray_process("torchray_seconds", name, overrides, areas) for name in ("mpx", "torchray")]
            pairs.append((float(texts[0]), float(texts[1])))
        print(f"areas {', '.join(map(str, areas))}")
        report_pairs("mpx", "torchray", pairs, unit=1e3)
    for name in ("mpx", "torchray"):
        print(f"{name}, one image: {run_torchray_process('torchray_memory', name, overrides, AREAS)}")


def run_torchray_process(row: str, program: str, overrides: list[str], areas: Sequence[float]) -> str:
    """Run a row of TORCHRAY_PROCESSES in a process of its own, and return its output."""
    command = [sys.executable, __file__, row, program, ",".join(map(str, areas)), *overrides]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def torchray_seconds(program: str, overrides: list[str], areas: Sequence[float]) -> float:
    """Return the seconds of an iteration of one image; the difference of two runs leaves out the preparation."""
    images = TORCHRAY_IMAGES if program == "mpx" else 1
    runs = [extremal_programs(overrides, areas, steps, images)[program] for steps in (1, *TORCHRAY_STEPS)]
    with kept_memory() if program == "mpx" else nullcontext():
        _, short, long = map(call_seconds, runs)  # the first one warms up
    return (long - short) / (TORCHRAY_STEPS[1] - TORCHRAY_STEPS[0]) / images


def torchray_memory(program: str, overrides: list[str], areas: Sequence[float]) -> str:
    explain = extremal_programs(overrides, areas, steps=2, images=1)[program]
    before = peak_memory()
    explain()
    return f"peak memory {(peak_memory() - before) / 1024:.0f} MiB"


def peak_memory() -> int:
    """Return the peak of this process in KiB, on Linux; getrusage includes the parent's."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def extremal_programs(
    overrides: list[str], areas: Sequence[float], steps: int, images: int
) -> dict[str, Callable[[], object]]:
    """Return functions that learn extremal masks of these areas: mpx's of all images, torchray's of one."""
    from torchray.attribution.extremal_perturbation import extremal_perturbation

    plan = compose_plan("experiment=extremal2019", f"steps={steps}", f"area={list(areas)}", *overrides)
    device = find_device(plan.device)
    classifier = plan.build_classifier(device)
    x = torch.rand(images, 3, *preprocessing(classifier).crop)
    rows = [Row(image, 0, "", area) for image in x for area in areas]
    normalised = classifier.scale * x[:1].to(device) + classifier.shift

    def explain_with_mpx() -> None:
        with classifier.frozen_and_folded(x):
            solve(plan.method, classifier, rows, lambda batch: fit(batch, plan.build_trainer(**single_device(device))), 2)

    def explain_with_torchray() -> None:
        extremal_perturbation(classifier.network.eval(), normalised, 0, areas=list(areas), max_iter=steps)

    return {"mpx": explain_with_mpx, "torchray": explain_with_torchray}


# ---- output


def report(name: str, values: Sequence[float]) -> None:
    """Print the median of values, and their range."""
    print(f"{name:<20} {statistics.median(values):8.3f}      ({min(values):.3f} to {max(values):.3f})")


def report_pairs(
    first: str, second: str, pairs: Sequence[tuple[float, float]], unit: float = 1.0, ratio: str = "ratio, pair by pair"
) -> None:
    """Print both programs' values, multiplied by `unit`, and their ratios."""
    report(first, [unit * a for a, _ in pairs])
    report(second, [unit * b for _, b in pairs])
    report(ratio, [a / b for a, b in pairs])


ROWS = {"iteration": iteration, "detection": detection, "compile": compiled, "predecessor": predecessor, "stop": stop,
        "run": run, "memory": memory, "workers": workers, "metrics": metrics, "torchray": torchray, "optimum": optimum,
        "scale": scale, "dispatch": dispatch, "matmul": matmul}  # fmt: skip
TORCHRAY_PROCESSES = {"torchray_seconds": torchray_seconds, "torchray_memory": torchray_memory}

if __name__ == "__main__":
    answer_help(__doc__)
    main()
