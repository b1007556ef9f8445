"""mpx: find the pixels that a network's decision rests on, by meaningful perturbations (Fong & Vedaldi 2017) and successors.

The public names are loaded when they are first used, so that `import mpx` and the command line start at once.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if "OMP_WAIT_POLICY" not in os.environ:  # torch reads it at import: idle threads then sleep instead of occupying a core
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from mpx.api import explain
    from mpx.captum_api import MeaningfulPerturbation, quantus_explain
    from mpx.command import run
    from mpx.config import method, part, task
    from mpx.errors import Error
    from mpx.evaluation import evaluate
    from mpx.explain_callback import ExplainCallback
    from mpx.explanation import Explanation
    from mpx.mask_learner import MaskLearner
    from mpx.models.classifier import Classifier
    from mpx.stored_run import Run, load
    from mpx.tasks.base import Task

__all__ = ["Classifier", "Error", "ExplainCallback", "Explanation", "MaskLearner", "MeaningfulPerturbation", "Run", "Task",
           "evaluate", "explain", "load", "method", "part", "quantus_explain", "run", "task"]  # fmt: skip
__version__ = "0.1.0"

_MODULES = {
    "Classifier": "mpx.models.classifier",
    "Error": "mpx.errors",
    "ExplainCallback": "mpx.explain_callback",
    "Explanation": "mpx.explanation",
    "MaskLearner": "mpx.mask_learner",
    "MeaningfulPerturbation": "mpx.captum_api",
    "Run": "mpx.stored_run",
    "Task": "mpx.tasks.base",
    "evaluate": "mpx.evaluation",
    "explain": "mpx.api",
    "load": "mpx.stored_run",
    "method": "mpx.config",
    "part": "mpx.config",
    "quantus_explain": "mpx.captum_api",
    "run": "mpx.command",
    "task": "mpx.config",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mpx' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)  # foreign: a module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
