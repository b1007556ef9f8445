"""captum.metrics, an optional dependency."""

from types import ModuleType

CAPTUM = ("captum", "mpx[baselines]")  # the module, and what pip installs for it


def captum_metrics(name: str) -> ModuleType:
    """Import captum.metrics for the metric of this name."""
    try:
        import captum.metrics
    except ImportError:
        raise ValueError(f'metric={name} needs Captum: pip install "mpx[baselines]", or leave it out') from None
    return captum.metrics
