"""What is shipped: a wheel that holds the menu, and rooms that depend only leftwards."""

import ast
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
            if path.suffix in (".yaml", ".py", ".j2", ".css", ".js"):
                assert prefix + path.relative_to(ROOT / source).as_posix() in names
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert "mpx = mpx.cli.main:main" in zipfile.ZipFile(wheel).read(entry).decode()


# room -> what of mpx it may import; architecture: dependency direction
ALLOWED = {
    "data": {"data"},
    "models": {"data", "models"},
    "operators": {"operators"},
    "explainers": {"data", "models", "operators", "explainers"},
    "solver": {"operators", "explainers", "solver"},
    "metrics": {"operators", "metrics"},
    "report": {"metrics", "report"},
}


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_depend_only_leftwards(room):
    for path in (ROOT / "mpx" / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                parts = module.split(".")
                assert parts[0] not in ("hydra", "omegaconf"), f"{path.name} imports {module}"
                assert parts[0] != "mpx" or len(parts) > 1 and parts[1] in ALLOWED[room], f"{path.name} imports {module}"
                assert room != "operators" or parts[0] != "pytorch_lightning", path.name


WITHOUT_TORCH = """
import os, sys
sys.modules["torch"] = None  # what libgomp reads must be there before
try:
    import mpx
except ImportError:
    print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    "own, spins", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_do_not_spin_where_others_work_unless_the_user_says_so(own, spins):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", WITHOUT_TORCH]
    assert subprocess.run(command, env=clean | own, capture_output=True, text=True, check=True).stdout.strip() == spins
