"""A GPU for each of several jobs of a sweep on one machine (cluster=joblib)."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def claim_gpu(sweep_folder: Path, count: int | None = None) -> Iterator[None]:
    """Set MPX_GPU to the first GPU that no other job of the sweep uses; do nothing for a job that runs alone.

    MPX_JOBS is the number of jobs at once (configs/cluster/joblib.yaml); count: number of GPUs, by default all.
    """
    if os.environ.get("MPX_JOBS", "1") == "1":
        yield
        return
    from mpx.runs.folder import lock

    if count is None:
        from mpx.devices import gpu_count

        count = gpu_count()
    with ExitStack() as stack:
        for index in range(count):
            try:
                stack.enter_context(lock(sweep_folder / f".gpu-{index}", "one job"))
            except ValueError:  # another job has locked it
                continue
            os.environ["MPX_GPU"] = str(index)
            stack.callback(os.environ.pop, "MPX_GPU", None)
            break
        yield
