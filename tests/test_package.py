"""The wheel, and the environment that `import mpx` sets for torch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_config_and_module(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, prefix in (("configs", "mpx/configs/"), ("mpx", "mpx/")):
        for path in (ROOT / source).rglob("*"):
            if path.suffix in (".yaml", ".py", ".j2", ".css", ".js", ".typed"):
                assert prefix + path.relative_to(ROOT / source).as_posix() in names
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert "mpx = mpx.cli.main:main" in zipfile.ZipFile(wheel).read(entry).decode()


WITHOUT_TORCH = """
import os, sys
import mpx
assert "torch" not in sys.modules  # libgomp reads the variable when torch is imported
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    "own, spins", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_do_not_spin_where_others_work_unless_the_user_says_so(own, spins):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", WITHOUT_TORCH]
    assert subprocess.run(command, env=clean | own, capture_output=True, text=True, check=True).stdout.strip() == spins
