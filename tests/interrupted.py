"""Runs that something interrupts, beside a run that nothing disturbs (outputs/calm)."""

import os
import resource
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from commands import SAME, Command, done, drafts, masks, summary, table, whole, workplace

# small batches of enough iterations that there is a moment to interrupt
LONG = [*(a for a in SAME if not a.startswith(("model.network", "batch_size", "pictures", "log_images"))), "steps=24"]
LONG += ["model.network=net.py:PausingNet", "batch_size=2", "pictures=4", "log_images=2"]
CONTINUE = "mpx: stopped; continue with: "


def explained(folder: Path, photos: int) -> Path:
    """Return the folder, with photos that a run without a disturbance explained in outputs/calm."""
    home = workplace(folder, photos)
    done(home, *LONG, "name=calm")
    return home


def run(home: Path, name: str | Path) -> Path:
    return home / "outputs" / name


@contextmanager
def paused_after(home: Path, name: str | Path, row: str = "") -> Iterator[None]:
    """Let no run with PausingNet come to its end once outputs/name has a row of such a name, within the context."""
    pause = home / "pause"
    pause.write_text(f"outputs/{name}/masks/{row}*.npz")
    try:
        yield
    finally:
        pause.unlink()


def until_started(command: Command) -> Command:
    """Wait until the model is ready."""
    return command.until(lambda: " on cpu" in command.out)


def until_first_row(command: Command, folder: Path) -> Command:
    """Wait until the run's table has a row."""
    return command.until(lambda: (folder / "results.csv").exists() and table(folder))


def rows(folder: Path) -> dict[str, int]:
    """Return the finished rows: file name -> when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "masks").glob("[!.]*")}


def check_equals_calm(home: Path, name: str | Path, images: int | None = None) -> None:
    """Check that a run is complete and differs in nothing from the first images of outputs/calm."""
    this, calm = run(home, name), run(home, "calm")
    names = sorted(masks(calm))[:images]
    assert masks(this) == {row: masks(calm)[row] for row in names}
    assert [row["image"] for row in table(this)] == [f"p{i:02}" for i in range(len(names))]
    for folder, suffix in (("panels", "png"), ("evolution", "webp")):
        for row in names[:4]:
            assert (this / folder / f"{row}.{suffix}").read_bytes() == (calm / folder / f"{row}.{suffix}").read_bytes()
    counts = summary(this)
    assert (counts["n"], counts["n_missing"], counts["protocol"]["stopped"]) == (len(names), 0, False)
    assert len(list(this.glob("tensorboard/mean/events.out.tfevents.*"))) == 1 and not drafts(this)
    whole(this)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    pids = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.add(int(stat.parent.name))
        except OSError:  # it has ended
            pass
    return pids


def check_stopped(command: Command, number: int, code: int, images: int, group: bool = False) -> Path:
    """Send the signal and check what the run says and leaves: the folder."""
    command.signal(number, group)
    assert command.end(30) == code, command.err
    assert is_stop_sentence(command), command.err
    folder = Path(command.out.partition("kept in ")[2].splitlines()[0])
    counts = summary(folder)
    assert counts["protocol"]["stopped"] and counts["n"] + counts["n_missing"] == images and counts["n_missing"] > 0
    assert [row["image"] for row in table(folder)] == sorted(row["image"] for row in table(folder))
    assert len(table(folder)) == counts["n"] <= len(rows(folder)) and not drafts(folder)
    whole(folder)
    return folder


def is_stop_sentence(command: Command) -> bool:
    return command.err.startswith(CONTINUE) and command.err.count("\n") == 1


def continued(home: Path, command: Command) -> Command:
    """Give the command that a stopped one names; it must succeed."""
    arguments = shlex.split(command.err.removeprefix(CONTINUE))
    assert arguments[0] == "mpx"
    return done(home, *arguments[1:])


def check_close(one: Path, other: Path, tolerance: float) -> None:
    names = sorted(path.name for path in (one / "masks").iterdir())
    assert names and names == sorted(path.name for path in (other / "masks").iterdir())
    for name in names:
        a, b = np.load(one / "masks" / name), np.load(other / "masks" / name)
        for key in ("parameter", "curves", "value_after"):
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=f"{name} {key}")


def eventually(condition, seconds: float = 30):
    """Return the first value of the condition that is true within this time, else its last."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


# ---- what interrupts


def dies_before_renaming_to(name: str, number: int, main):
    """Die at the number-th time that a file of such a name is about to appear."""
    replace, seen = os.replace, []

    def dying(draft, path):
        seen.append(path) if str(path).endswith(name) else None
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(draft, path)

    os.replace = dying
    main()


def limited(size: int, main):
    """Let no file grow beyond this many bytes, which fails as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    main()


def check_full_disk(home: Path, size: int, pictures: str) -> None:
    this, few = run(home, f"full{size}"), [*LONG, "limit=2", f"pictures={pictures}", f"name=full{size}"]
    command = done(home, *few, inside=partial(limited, size), code=1)
    assert one_sentence(command) and f"{this}" in command.err and "File too large" in command.err
    assert not rows(this) and not drafts(this)
    whole(this)
    done(home, *few)
    assert len(masks(this)) == 2 and masks(this).items() <= masks(run(home, "calm")).items()
    whole(this)


# ---- a network that needs more memory than there is

HUNGRY = """
import torch
from planted import RoundingNet

class Hungry(RoundingNet):
    def forward(self, x):
        print(len(x), file=open("sizes.txt", "a"))
        if len(x) > {most}:
            raise {error}
        return super().forward(x)
"""
CUDA = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")'
CPU = 'RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can\'t allocate memory")'


def write_hungry_network(home: Path, most: int, error: str) -> None:
    """Write hungry.py with a network that fails with more than `most` images at once, and notes how many it gets."""
    (home / "hungry.py").write_text(HUNGRY.format(most=most, error=error))
    (home / "sizes.txt").write_text("")


def one_sentence(command: Command) -> bool:
    return len(command.err.strip().splitlines()) == 1
