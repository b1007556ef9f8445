"""What the options of operators may be: types and ranges in the signatures of their functions, checked when a part is built.

    def rise(..., masks: Count = 4000, keep: Annotated[float, Allowed(lambda x: 0 < x < 1, "above 0 and below 1")] = 0.5)

So a wrong value is refused before any work begins, and one that is too large for the images once their size is known.
"""

import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

from mpx.errors import near

Extra = TypeVar("Extra")


class Allowed(NamedTuple):
    """The values that an option may have, besides its type. words: these in words, after "must be"."""

    test: Callable[[Any], bool]
    words: str


class Limit(NamedTuple):
    """The largest value that an option may have for images of a size. words: it in words, after the number."""

    largest: Callable[[int, int], float]  # of (height, width)
    words: str


def one_of(*values: Any) -> Allowed:
    """Return that an option is one of these values."""
    return Allowed(lambda value: value in values, f"one of {', '.join(map(str, values))}")


Count = Annotated[int, Allowed(lambda n: n >= 1, "at least 1")]
OddSize = Annotated[int, Allowed(lambda n: n >= 1 and n % 2 == 1, "odd, at least 1")]  # px, with a pixel in the middle
Share = Annotated[float, Allowed(lambda x: 0 <= x <= 1, "from 0 to 1")]
ShareAboveZero = Annotated[float, Allowed(lambda x: 0 < x <= 1, "above 0 and at most 1")]
NotNegative = Annotated[float, Allowed(lambda x: 0 <= x < math.inf, "a finite number, at least 0")]
Positive = Annotated[float, Allowed(lambda x: 0 < x < math.inf, "a finite number above 0")]


PixelCount = Annotated[Count, Limit(lambda h, w: h * w, "the number of the image's pixels")]
Blur = Annotated[Positive, Limit(lambda h, w: (min(h, w) - 1) / 3, "a third of the image's shorter side")]  # px, sigma


def _is_color(value: float | Sequence[float]) -> bool:
    return all(0 <= number <= 1 for number in (value if isinstance(value, Sequence) else [value]))


Color = Annotated[float | list[float], Allowed(_is_color, "a number from 0 to 1, or one for each channel")]


def check_options(part: partial[Any], name: str) -> None:
    """Refuse options of a part that its function lacks or whose value it does not take; name: of the part, for sentences."""
    try:
        parameters = inspect.signature(part.func).parameters
    except ValueError:  # of a builtin
        return
    defaults = [key for key, p in parameters.items() if p.default is not p.empty or key in part.keywords]  # not the tensors
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in part.keywords.items():
        if key in parameters:
            _check_value(f"{name}.{key}", value, parameters[key].annotation)
        elif not accepts_any:
            known = near(key, defaults) if defaults else ", which has none"
            raise ValueError(f"{name}.{key} is not an option of {part.func.__name__}{known}")


def check_limits(part: Callable[..., Any], name: str, size: tuple[int, int]) -> None:
    """Refuse options of a part that are too large for images of this size (H,W); name: of the part, for sentences."""
    for key, parameter in inspect.signature(part).parameters.items():
        for limit in _extras(parameter.annotation, Limit):
            largest = limit.largest(*size)
            if parameter.default is not None and parameter.default > largest:
                raise ValueError(f"{name}.{key}={parameter.default} must be at most {largest:g}, {limit.words}")


def _check_value(key: str, value: object, annotation: Any) -> None:
    """Refuse a value of another type, where the annotation consists of plain types, and one that it does not allow."""
    annotation = {"int": int, "float": float, "str": str, "bool": bool}.get(annotation, annotation)  # torch's are strings
    kinds = _kinds(annotation)
    lists = {Sequence[float], list[float]} & set(kinds)
    plain = tuple(kind for kind in kinds if kind not in lists)
    if not kinds or not set(plain) <= {int, float, str, bool, type(None)}:
        return
    is_list = bool(lists) and isinstance(value, Sequence) and not isinstance(value, str)
    if plain and not is_list and not _is_kind(value, plain):
        names = ["null" if kind is type(None) else kind.__name__ for kind in plain] + ["a list"] * bool(lists)
        raise ValueError(f"{key}={value!r} must be of type {' or '.join(names)}")
    for allowed in _extras(annotation, Allowed):
        if value is not None and not allowed.test(value):
            raise ValueError(f"{key}={value} must be {allowed.words}")


def _is_kind(value: object, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is of one of these plain types; NumPy's numbers are, and a whole number is a float too."""
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, numbers.Integral):
        return int in kinds or float in kinds
    return float in kinds if isinstance(value, numbers.Real) else isinstance(value, kinds)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of an annotation."""
    if typing.get_origin(annotation) is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if _is_union(annotation):
        return tuple(kind for argument in typing.get_args(annotation) for kind in _kinds(argument))
    return (annotation,)


def _extras(annotation: Any, kind: type[Extra]) -> list[Extra]:
    """Return what an annotation says of this kind, in any of its alternatives."""
    if typing.get_origin(annotation) is Annotated:
        return [extra for extra in annotation.__metadata__ if isinstance(extra, kind)]
    if _is_union(annotation):
        return [extra for argument in typing.get_args(annotation) for extra in _extras(argument, kind)]
    return []


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) is typing.Union or isinstance(annotation, types.UnionType)
