"""Which packages a command or an import loads: what answers at once loads no torch, and a library call no framework."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mpx

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ["pytorch_lightning", "timm", "skimage", "matplotlib", "tensorboard", "scipy", "torchmetrics", "ray"]
COMMANDS = """
import json, sys
from mpx.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
    print("next command")
"""
REPORT = """
import atexit, sys
atexit.register(lambda: print("\\nloaded", *sorted({name.split(".")[0] for name in sys.modules})))
"""
EXPLAIN = """
import torch
from mpx import explain
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
explain(network, torch.rand(1, 3, 32, 32), target=0, steps=2, mask_size=8)
"""


def loaded(code: str, *arguments: str, **environment: str) -> tuple[set[str], str]:
    """Return the top-level packages that a fresh interpreter has loaded at its end, and what it printed."""
    line = [sys.executable, "-c", REPORT + code, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    out = subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout
    printed, _, packages = out.rpartition("\nloaded ")
    return set(packages.split()), printed


def test_commands_that_only_print_load_no_torch():
    commands = [
        (["--help"], "Groups (group=option"),
        (["--version"], "mpx 0.1.0"),
        (["--cfg", "job"], "lambda_tv: 0.2"),
        (["--cfg", "job", "experiment=fong2017", "metric=[road,insertion]"], "game: deletion"),
        (["--cfg", "job", "sweep=blur"], "steps: 60"),
        (["--shell-completion", "query=bash"], "perturbation=blur_median"),
    ]
    line = "mpx perturbation=blur_me"
    arguments = json.dumps([arguments for arguments, _ in commands])
    packages, out = loaded(COMMANDS, arguments, COMP_LINE=line, COMP_POINT=str(len(line)))
    for (arguments, printed), text in zip(commands, out.split("next command")):
        assert printed in text, arguments
    assert out.count("next command") == len(commands)
    assert not packages & {"torch", "numpy", *FRAMEWORKS}


def test_the_import_loads_no_torch():
    packages, _ = loaded("import mpx; assert {'explain', 'method', 'Classifier'} <= set(dir(mpx))")
    assert "torch" not in packages


def test_the_library_loads_no_framework():
    packages, _ = loaded(EXPLAIN)
    assert "torch" in packages and packages & set(FRAMEWORKS) <= {"scipy"}  # its connected components prune the mask


def test_every_public_name_is_there():
    assert mpx.__all__ and all(callable(getattr(mpx, name)) for name in mpx.__all__)
