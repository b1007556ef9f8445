"""What an iteration costs beside the network's own forward and backward: python scripts/benchmark.py [key=value ...]

Both are timed in turn in one process, on the same network, memory format and batch size: mpx's iteration as the main job
runs it (Lightning, jitter, mask, regularizers, optimizer, history) and a bare loop of forward and backward to the input.
Machines are noisy: quote the median of the ratios, with the machine and the versions.
"""

import platform
import statistics
import sys
import time

import pytorch_lightning as pl
import torch

from mpx import config
from mpx.solver import workers
from mpx.solver.module import fit
from mpx.solver.objective import Problem, Search

ROUNDS, STEPS = 9, 6  # pairs of timings; iterations in each, of which the first is not counted


def main() -> None:
    cfg = config.compose(f"steps={STEPS}", *sys.argv[1:])
    where = workers.device(cfg.device)
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

    with classifier.frozen():
        problem = Problem(config.recipe(cfg), classifier, photos, targets, names)
        pairs = [(ours(), bare()) for _ in range(ROUNDS)]
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{classifier.name}, batch {cfg.batch_size}, {where} ({card}), torch {torch.__version__}, {platform.machine()}")
    for name, times in zip(("mpx iteration", "forward + backward"), zip(*pairs)):
        low, middle, high = (1e3 * f(times) for f in (min, statistics.median, max))
        print(f"{name:<20} {middle:8.1f} ms   ({low:.1f} to {high:.1f})")
    ratios = sorted(a / b for a, b in pairs)
    print(f"{'ratio, pair by pair':<20} {statistics.median(ratios):8.3f}      ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
