"""mpx: which pixels made the network say that? Meaningful perturbations (Fong & Vedaldi 2017) and what followed."""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # before torch is imported: its threads wait in sleep, not in a loop that keeps the
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # one they wait for off a core that others use too

from mpx.config import method
from mpx.explain import MeaningfulPerturbation, explain
from mpx.explanation import Explanation
from mpx.models.classifier import Classifier

__all__ = ["Classifier", "Explanation", "MeaningfulPerturbation", "explain", "method"]
__version__ = "0.1.0"
