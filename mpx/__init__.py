"""mpx: which pixels made the network say that? Meaningful perturbations (Fong & Vedaldi 2017) and what followed."""

from mpx.config import preset
from mpx.explain import MeaningfulPerturbation, explain
from mpx.explanation import Explanation
from mpx.models.classifier import Classifier

__all__ = ["Classifier", "Explanation", "MeaningfulPerturbation", "explain", "preset"]
__version__ = "0.1.0"
