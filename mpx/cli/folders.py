"""Names of the folders of sweeps and of their jobs. mpx/report/sweep.py reads the jobs' names back."""

import re
from hashlib import sha256

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mpx.config_schema import CONFIGS, options

LONGEST_NAME = 200  # bytes; file systems allow 255, and files inside carry the name further
LONGEST_VALUE = 32  # characters of a value that is never shortened


def folder_name(values: dict[str, str]) -> str:
    """Return a job's folder by the values that the sweep varies: "mask_size=14,perturbation=black".

    In a name above LONGEST_NAME the longest values become a hash and their last characters, which tell paths apart.
    """
    values = {_clean_key(key): _clean_value(value) for key, value in values.items()}
    full_name = name = _joined(values)
    for key in sorted(values, key=lambda key: -len(values[key])):
        if _too_long(name) and len(values[key]) > LONGEST_VALUE:
            values[key] = f"{_digest(values[key])}-{values[key][-20:]}"
            name = _joined(values)
    return f"{full_name[:60]}-{_digest(full_name)}" if _too_long(name) else name


def sweep_folder(arguments: list[str]) -> str:
    """Return a sweep's folder by its command, so that the same command continues in it: "mask_size_x_noise,game=dual".

    The varied keys come first, then the fixed ones; keys that change only how the sweep is executed are left out.
    """
    overrides = [a for a in arguments if not a.startswith(("-", "hydra")) and "=" in a]
    fixed = {override.get_key_element(): override for override in OverridesParser.create().parse_overrides(overrides)}
    axes = []
    if "sweep" in fixed:
        preset = value_label(fixed.pop("sweep").get_value_element_as_str())
        axes.append(preset)
        for key in _preset_keys(preset):
            fixed.pop(key, None)
    if "versus" in fixed:
        axes.append(folder_name({"versus": fixed.pop("versus").get_value_element_as_str()}))
    axes += [key for key, override in fixed.items() if override.is_sweep_override()]
    values = {
        key: value_label(override.get_value_element_as_str())
        for key, override in fixed.items()
        if key not in axes and key not in _execution_keys()
    }
    return ",".join(["_x_".join(axes) or "run", *([folder_name(values)] if values else [])])


def value_label(value: str) -> str:
    """Return a value of the command line without its quotes."""
    return value.strip("'\"")


def _preset_keys(preset: str) -> set[str]:
    """Return the keys that configs/sweep/<preset>.yaml varies; none for a preset that Hydra will refuse."""
    if preset not in options("sweep"):
        return set()
    sweeper = OmegaConf.load(CONFIGS / "sweep" / f"{preset}.yaml").hydra.sweeper
    cases = (sweeper.get("cases") or {}).values()
    case_keys = {override.partition("=")[0] for axis in cases for overrides in axis.values() for override in overrides}
    return {*(sweeper.get("params") or {}), *case_keys}


def _execution_keys() -> set[str]:
    """Return the keys that change the execution and the report of a sweep, not its masks."""
    from mpx.runs.resume import RESUMABLE_KEYS, RESUMABLE_WITHOUT_DETERMINISM

    return {*RESUMABLE_KEYS, *RESUMABLE_WITHOUT_DETERMINISM, "metric", "pictures", "frames", "cluster"}


def _clean_key(key: str) -> str:
    return re.sub(r"^[+~]+", "", key)


def _clean_value(value: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", str(value).strip("[]").replace(",", "+"))


def _too_long(name: str) -> bool:
    return len(name.encode()) > LONGEST_NAME


def _joined(values: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]
