"""What all operators share: unwrapping of bound options, the check of a result, and the declaration that `area=` is needed.

An operator is a plain function, or a class, that maps tensors to tensors. mpx.config binds its options with
functools.partial. The contract of each kind, and the context object that its operators receive, stands in one module:

perturbation  mpx.perturbations.base        mask       mpx.masks.base         score      mpx.scores
regularizer   mpx.regularizers              augment    mpx.augmentations      explainer  mpx.explainers.base
optimizer     mpx.learning.optimizers       metric     mpx.metrics.base       task       mpx.tasks.base
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from mpx.errors import first_line

Operator = TypeVar("Operator", bound=Callable)
ROUNDING = 1e-3  # by which values may leave [0,1]
_requiring_area: set[Callable] = set()


def unwrap(operator: Callable) -> Callable:
    """Return the function or class behind an operator whose options are bound."""
    while isinstance(operator, partial):
        operator = operator.func
    return operator


def dotted_name(operator: Callable) -> str:
    """Return the module and the name of the function or class behind an operator, for error sentences."""
    function = unwrap(operator)
    name = getattr(function, "__qualname__", type(function).__name__)  # foreign: a callable object of the user's
    return f"{function.__module__}.{name}"


def describe(value: object) -> str:
    """Return the shape of a tensor, or the type of anything else, for error sentences."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def imported(path: str, option: str) -> Callable[..., Any]:
    """Return the user's function at "package.module:function" or "path/file.py:function". option: its name, for messages."""
    module_name, _, function_name = path.rpartition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, Path(module_name).expanduser())
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        return getattr(module, function_name)  # foreign: the user's module
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{option}={path!r} cannot be imported ({first_line(error).rstrip('.')}): expected package.module:function or "
            "path/file.py:function"
        ) from error


def check_call(kind: str, operator: Callable, arguments: str, returns: str) -> None:
    """Raise ValueError where an operator cannot be called with these arguments, whose names are divided by ", "."""
    function = operator.forward if isinstance(operator, nn.Module) else operator
    try:
        inspect.signature(function).bind(*arguments.split(", "))
    except TypeError as error:
        raise ValueError(
            f"{kind} {dotted_name(operator)} cannot be called ({error}): its contract is f({arguments}) -> {returns}"
        ) from error
    except ValueError:  # of a builtin, whose signature is unknown
        return


def check_shape(kind: str, operator: Callable, value: object, axes: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an operator returned a tensor of this shape. axes: names of the shape's axes."""
    if not isinstance(value, Tensor) or value.shape != shape:
        raise ValueError(f"{kind} {dotted_name(operator)} returned {describe(value)}: it must return {axes} = {shape}")


def check_range(kind: str, operator: Callable, values: Tensor, hint: str = "") -> None:
    """Raise ValueError where values leave [0,1] by more than rounding. Waits for the device.

    NaN and infinite values pass: they fail their own row later, and no other. hint: the end of the sentence.
    """
    low, high = (value.item() for value in values.float().nan_to_num(0.5, 0.5, 0.5).aminmax())
    if low < -ROUNDING or high > 1 + ROUNDING:
        span = f"{low:.3g} to {high:.3g}"
        raise ValueError(f"{kind} {dotted_name(operator)} returned values from {span}: they must be in [0,1]{hint}")


def per_channel(values: float | Sequence[float], images: Tensor, name: str) -> list[float]:
    """Return one number for each channel of images (...,C,H,W), from one number or one per channel. name: of the option."""
    channels = images.shape[-3]
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values] * channels
    if len(numbers) != channels or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"{name}={values} must be one number, or a list of one for each of the image's {channels} channels")
    return numbers


def needs_area(operator: Operator) -> Operator:
    """Declare that an operator uses the requested area (`area=`), so that a method without one is refused. A decorator."""
    _requiring_area.add(operator)
    return operator


def requires_area(operator: Callable) -> bool:
    """Return whether the operator was declared with `needs_area`."""
    return unwrap(operator) in _requiring_area
