"""Checks options against the signature of the function or class that they are bound to."""

import inspect
import types
import typing
from collections.abc import Sequence
from functools import partial
from typing import Any

from mpx.errors import near


def check_options(part: partial[Any], name: str) -> None:
    """Refuse options of a part that its function lacks or whose type is another; name: of the part, for error sentences."""
    try:
        parameters = inspect.signature(part.func).parameters
    except ValueError:  # of a builtin
        return
    defaults = [key for key, p in parameters.items() if p.default is not p.empty or key in part.keywords]  # not the tensors
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in part.keywords.items():
        if key in parameters:
            _check_type(f"{name}.{key}", value, parameters[key].annotation)
        elif not accepts_any:
            known = near(key, defaults) if defaults else ", which has none"
            raise ValueError(f"{name}.{key} is not an option of {part.func.__name__}{known}")


def _check_type(key: str, value: object, annotation: Any) -> None:
    """Refuse a value of another type, where the annotation consists of plain types."""
    annotation = {"int": int, "float": float, "str": str, "bool": bool}.get(annotation, annotation)  # torch's are strings
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    lists = {Sequence[float], list[float]} & set(kinds)
    kinds = tuple(kind for kind in kinds if kind not in lists)
    if not kinds or not set(kinds) <= {int, float, str, bool, type(None)}:
        return
    if lists and isinstance(value, Sequence) and not isinstance(value, str):
        return
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        allowed = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        allowed += " or a list" if lists else ""
        raise ValueError(f"{key}={value!r} must be of type {allowed}")
