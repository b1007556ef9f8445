from mpx.models.classifier import Classifier

__all__ = ["Classifier"]
