"""A line of a comparison: one metric of one run; and which of several values is best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mpx.report.run_folder import RunFolder


@dataclass(frozen=True)
class ComparisonLine:
    """One metric of one run."""

    run: str
    metric: str
    value: float | None
    better: str = "none"  # which values are better: higher, lower, near 0 or none
    low: float = math.nan  # 95 % interval of the value
    high: float = math.nan
    n: int = 0  # rows
    difference: float = math.nan  # to the first run, mean over the images that both have
    pairs: int = 0  # rows that both have
    p_value: float = math.nan  # of the paired test
    protocol: str = ""
    axes: dict[str, str] = field(default_factory=dict)  # heading -> cell, see RunFolder

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)


def metric_names(lines: Sequence[ComparisonLine]) -> list[str]:
    """Return the metrics in their order."""
    return list(dict.fromkeys(line.metric for line in lines))


def better_values(lines: Sequence[ComparisonLine], metric: str) -> str:
    """Return higher, lower, near 0 or none; none where runs disagree, e.g. a deletion beside a preservation."""
    directions = {line.better for line in lines if line.metric == metric}
    return directions.pop() if len(directions) == 1 else "none"


def metric_title(lines: Sequence[ComparisonLine], metric: str) -> str:
    better = better_values(lines, metric)
    return metric if better == "none" else f"{metric} ({better} is better)"


def is_best(lines: Sequence[ComparisonLine], line: ComparisonLine) -> bool:
    """Return whether no run has a better value of this metric; never where no direction is better."""
    values = [other.value for other in lines if other.metric == line.metric and other.value is not None]
    better = better_values(lines, line.metric)
    if better == "none" or not values:
        return False
    return line.value == (max(values) if better == "higher" else min(values, key=abs if better == "near 0" else None))


def format_value(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}" if abs(x) >= 1 else f"{x:.3f}"


def format_interval(line: ComparisonLine) -> str:
    return f"[{format_value(line.low)}, {format_value(line.high)}]"


def run_cost(run: RunFolder) -> float:
    """Return the passes of a row; a forward counts as a third of a pass. At least 0.1, for logarithmic axes."""
    passes, forwards = ((run.metrics[name]["value"] or 0) for name in ("passes", "forwards"))
    return max(0.1, passes + forwards / 3)
