"""The jobs of a sweep: every combination of its axes."""

import itertools
from collections import Counter

from hydra.core.override_parser.types import Override

from mpx.cli.folders import folder_name, value_label

Axis = dict[str, list[str]]  # label of a value -> the overrides that set it


def list_jobs(params: list[Override], cases: dict[str, Axis], command_overrides: list[Override]) -> dict[str, list[str]]:
    """Return folder name -> overrides of every job.

    params: axes of one key each; cases: axes whose values set several keys, axis -> label -> overrides (configs/sweep/);
    command_overrides: overrides of the command line, each of which replaces the axis of its key or adds one.
    """
    axes = {override.get_key_element(): _values(override) for override in params}
    axes |= _remaining_cases(cases, {override.get_key_element() for override in command_overrides})
    fixed = []
    for override in command_overrides:
        key = override.get_key_element()
        if key in axes or override.is_sweep_override():
            axes[key] = _values(override)
        else:
            fixed.append(str(override.input_line))
    jobs: dict[str, list[str]] = {}
    for values in itertools.product(*(axis.items() for axis in axes.values())):
        name = folder_name({key: label for key, (label, _) in zip(axes, values)}) or "run"
        if name in jobs:
            raise ValueError(f"two jobs need the folder {name}: their values differ only in characters no folder name has")
        jobs[name] = fixed + [override for _, overrides in values for override in overrides]
    return jobs


def _remaining_cases(cases: dict[str, Axis], command_keys: set[str]) -> dict[str, Axis]:
    """Return the axes of cases without the keys of the command, which replaces an axis that varies one of these keys."""
    axes = {}
    for axis, values in cases.items():
        settings = {tuple(override.split("=", 1)) for overrides in values.values() for override in overrides}
        values_of_key = Counter(key for key, _ in settings)
        if not any(values_of_key[key] > 1 for key in command_keys):
            axes[axis] = {
                label: [override for override in overrides if override.split("=", 1)[0] not in command_keys]
                for label, overrides in values.items()
            }
    return axes


def _values(override: Override) -> Axis:
    """Return the values of one key as an axis."""
    if not override.is_sweep_override():
        return {value_label(override.get_value_element_as_str()): [str(override.input_line)]}
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line}: an interval needs a sweeper that samples it, e.g. sweep=optuna")
    key = override.get_key_element()
    return {value_label(value): [f"{key}={value}"] for value in override.sweep_string_iterator()}
