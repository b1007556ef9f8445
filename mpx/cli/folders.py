"""Names of the folders of sweeps and of their jobs. mpx/report/sweep.py reads the jobs' names back."""

import re
from hashlib import sha256

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
