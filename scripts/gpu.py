"""What is to be known about a GPU, in nine minutes: scripts/gpu.sh [folder] [--rehearsal]

Runs the device tests (pytest -m gpu), then rows of benchmark.py on ResNet-50 with random weights. Each stage is a process of
its own with a time limit, and its numbers are in folder/gpu.json and folder/gpu.md before the next one begins.

folder: by default outputs/gpu. --rehearsal: everything small, on any device.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from mpx.cli.arguments import answer_help

SCRIPTS = Path(__file__).parent
TOTAL = 530  # s, for all stages
NUMBERS = re.compile(r"^(\S.*?) +(-?[\d.]+) +\(([\d.-]+) to ([\d.-]+)\)$", re.MULTILINE)  # benchmark.py's lines
NETWORK = ("model=resnet50", "model.weights=null")
SMALL_NETWORK = ("model=torchvision", "model.name=mobilenet_v3_small", "model.weights=null", "device=auto")


class Stage(NamedTuple):
    """Commands that run at the same time, and the seconds that they may take."""

    limit: int
    commands: list[list[str]]
    rows: int = 0  # optimized together by each command, to compute the rows per second


def stages(rehearsal: bool) -> dict[str, Stage]:
    """Return the stages in their order."""
    network, sizes = (SMALL_NETWORK, (1, 2)) if rehearsal else (NETWORK, (64, 256))
    small, large = sizes

    def row(limit: int, name: str, size: int, *overrides: str, processes: int = 1) -> Stage:
        command = [sys.executable, str(SCRIPTS / "benchmark.py"), name, *network, f"batch_size={size}", *overrides]
        return Stage(limit, [command] * processes, size)

    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests/test_gpu.py"]
    return {
        "device tests": Stage(120, [tests]),
        "matrix products": row(40, "matmul", 1)._replace(rows=0),
        f"iteration, {small} rows, 32 bits": row(45, "iteration", small),
        f"iteration, {small} rows, bf16": row(45, "iteration", small, "precision=bf16"),
        f"iteration, {large} rows, bf16": row(60, "iteration", large, "precision=bf16"),
        f"iteration, {large} rows, bf16, compiled": row(120, "compile", large, "precision=bf16"),
        f"quick, {small} rows, bf16": row(45, "iteration", small, "precision=bf16", "experiment=quick"),
        "the predecessor's loop, one image": row(60, "predecessor", small)._replace(rows=0),
        f"extremal2019, {small} rows": row(60, "iteration", small, "experiment=extremal2019"),
        "extremal2019, one row (torchray's kind of loop)": row(45, "iteration", 1, "experiment=extremal2019"),
        f"two processes, {small} rows each, bf16": row(60, "iteration", small, "precision=bf16", processes=2),
    }


def main() -> None:
    answer_help(__doc__)
    rehearsal, folders = "--rehearsal" in sys.argv, [a for a in sys.argv[1:] if not a.startswith("--")]
    folder = Path(folders[0] if folders else "outputs/gpu")
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results: dict = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "stages": {}}
    environment = os.environ | ({"MPX_REHEARSAL": "1", "PAIRS": "1"} if rehearsal else {})
    patience = 3 if rehearsal else 1
    end = time.monotonic() + patience * TOTAL
    for name, stage in stages(rehearsal).items():
        results["stages"][name] = run(stage, min(patience * stage.limit, end - time.monotonic()), environment)
        (folder / "gpu.json").write_text(json.dumps(results, indent=1))
        (folder / "gpu.md").write_text(table(results))
        print(f"{name}: {results['stages'][name]['outcome']}", flush=True)
    print(f"\n{table(results)}\nwritten: {folder}/gpu.json, gpu.md")


def run(stage: Stage, limit: float, environment: dict[str, str]) -> dict:
    """Return a stage's outcome, seconds, and the numbers of its first command: name -> [median, least, most]."""
    start, end = time.monotonic(), time.monotonic() + limit
    if limit <= 0:
        return {"outcome": "no time was left", "seconds": 0.0, "numbers": {}}
    processes = [
        subprocess.Popen(
            command,
            cwd=SCRIPTS.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command in stage.commands
    ]
    outputs = []
    for process in processes:
        try:
            outputs.append(process.communicate(timeout=max(0.1, end - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the compiler's processes
            outputs.append(process.communicate()[0])
    seconds, late = time.monotonic() - start, time.monotonic() > end
    failed = any(process.returncode for process in processes)
    numbers = {name: [float(n) for n in values] for name, *values in NUMBERS.findall(outputs[0])}
    last = (outputs[0].strip().splitlines() or ["no output"])[-1]
    outcome = f"not finished in {limit:.0f} s" if late else f"failed: {last}" if failed else last if not numbers else "done"
    if stage.rows and "mpx iteration, ms" in numbers:
        each = [NUMBERS.findall(output) for output in outputs]
        times = [float(values[0]) for lines in each for title, *values in lines if title == "mpx iteration, ms"]
        numbers["rows per second"] = [sum(1000 * stage.rows / ms for ms in times)] * 3
    return {"outcome": outcome, "seconds": round(seconds, 1), "numbers": numbers, "output": outputs}


def table(results: dict) -> str:
    """Return the Markdown table of all stages so far."""
    numbers = {name: stage["numbers"] for name, stage in results["stages"].items()}
    products = numbers.get("matrix products", {})
    rate, operations = (products.get(key, [0])[0] for key in ("matmul, TFLOP/s", "one pass, GFLOP"))
    lines = [f"{results['device']}, torch {results['torch']}, CUDA {results['cuda']}", ""]
    lines += ["| stage | outcome | s | quantity | median | range | share of the matmul rate |", "|---" * 7 + "|"]
    for name, stage in results["stages"].items():
        title = f"| {name} | {stage['outcome']} | {stage['seconds']} |"
        for quantity, (median, least, most) in (stage["numbers"] or {"": (0, 0, 0)}).items():
            share = ""
            is_dual = name.startswith(("iteration", "quick", "two processes"))
            if is_dual and quantity == "forward + backward" and rate and "rows per second" in stage["numbers"]:
                passes = stage["numbers"]["rows per second"][0] * stage["numbers"]["mpx iteration, ms"][0] / median
                share = f"{2 * passes * operations / rate / 1e3:.1%}"  # a dual game shows the network two images of a row
            value = f" {median:g} | {least:g} to {most:g}" if quantity else " | "
            lines.append(f"{title} {quantity} |{value} | {share} |")
            title = "| | | |"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
