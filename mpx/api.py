"""The library: explain(model, images, ...) -> Explanation, the same objective as a run's, without a Trainer.

>>> explanation = mpx.explain(model, images, target="espresso", perturbation="blur_median")
>>> explanation.saliency  # (B,1,H,W) in [0,1], high where the evidence is
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial, wraps
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpx import config
from mpx.config_errors import unread
from mpx.config_schema import INTERPOLATED, readers
from mpx.errors import memory_error_as_sentence, names_unknown_arguments
from mpx.explanation import Explanation, join
from mpx.learning.batch import RowBatch
from mpx.learning.batch_position import batch_position_matters
from mpx.learning.batching import RowSolver, prepare_batch
from mpx.learning.inputs import as_images, make_rows, with_task
from mpx.learning.loop import optimize
from mpx.learning.memory import kept_memory
from mpx.learning.method import Method, check_regularizers
from mpx.models.bare import as_classifier
from mpx.models.checks import check_classifier
from mpx.models.classifier import Classifier
from mpx.runs.progress import Progress
from mpx.tasks.base import Task
from mpx.verdicts import judge_and_warn

# arguments of explain() that are not part of a method
OUTSIDE_A_METHOD = ("model", "images", "target", "task", "method", "batch_size", "deterministic", "frames", "on_step",
                    "progress")  # fmt: skip


def _to_python(value: Any) -> Any:
    """Return a scalar of NumPy or PyTorch as Python's, also inside a list, a tuple or a dict."""
    if isinstance(value, np.generic) or isinstance(value, (Tensor, np.ndarray)) and value.shape == ():
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_to_python, value))
    return {key: _to_python(item) for key, item in value.items()} if type(value) is dict else value


def _accept_scalars(function: Callable) -> Callable:
    """Let a function take scalars of NumPy and PyTorch for Python's."""

    @wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        return function(*map(_to_python, args), **_to_python(options))

    return wrapper


@torch.inference_mode(False)
@torch.enable_grad()  # whatever the caller's mode: Captum's metrics call under no_grad
@_accept_scalars
@names_unknown_arguments()
def explain(
    model: nn.Module | str,
    images: Any,
    target: Any = None,
    *,
    task: str | Task | None = None,
    explainer: str | Callable | None = None,
    perturbation: str | Callable = "blur_gaussian",
    game: str = "dual",
    mask: str | Callable = "grid",
    mask_size: int | Sequence[int] = 28,
    score: str | Callable = "steep_probability",
    ranking: str | Callable = "prior",
    lambda_l1: float = 0.5,
    lambda_tv: float = 0.2,
    regularizers: dict[str, tuple[float, str | Callable]] | None = None,
    dual_weight: float = 0.5,
    prune: float = 0.02,
    area: float | Sequence[float] | None = None,
    gradient: str | Callable | None = None,
    jitter: int = 2,
    noise: float = 0.0,
    flip: float = 0.0,
    samples: int = 1,
    steps: int = 60,
    lr: float = 0.3,
    optimizer: str | Callable = "row_adam",
    scheduler: str | Callable | None = "linear",
    stop: str | Callable | None = None,
    seed: int = 0,
    precision: str = "32",
    compile: bool = False,
    method: Method | None = None,
    batch_size: int = 16,
    deterministic: bool = False,
    frames: int = 24,
    on_step: Callable[[int], None] | None = None,
    progress: bool | None = None,
) -> Explanation:
    """Learn which pixels the network's answer for each image rests on.

    model: an mpx.Classifier; or any nn.Module from images to logits (B,K), or what its task takes; or the name of a
        torchvision network. It is frozen meanwhile and restored at the end. Networks of timm and Hugging Face bring their
        normalisation; wrap any other that needs normalised input: Classifier(network, mean, std).
    images: a tensor (B,C,H,W) or (C,H,W) in [0,1]; or a file, a folder, a glob, a PIL image, a numpy array ((H,W,C) of
        0 to 255, or as in mpx.data.arrays), or a list of these, preprocessed by the Classifier.
    target: None for each image's top class; an index, a name, "top2", or a list of these, which gives a mask for each
        target and image; or a tensor or array (B,) of indices, one for each image. Or a function from whatever the network
        returns for B images to the number (B,) that is explained: task=Regression(function=target).
    task: what of the network's output is explained: an option's name in configs/task/ or an mpx.Task, e.g.
        mpx.task("segmentation", "task.region=image"); None: the Classifier's.
    perturbation, mask, score, ranking, optimizer, scheduler, stop: an option's name in configs/, a function of the same
        contract, or an option with options of its own: mpx.part("perturbation", "blur_gaussian", sigma=3).
    regularizers: further terms, name -> (weight, an option's name or a function as in mpx.regularizers).
    explainer: a baseline in the place of the learnt mask, e.g. "gradcam"; the optimization's options have no effect then.
    method: all of these at once, e.g. a published method: method=mpx.method("extremal2019").
    deterministic: fill every batch up to batch_size, so that a row's bits do not depend on the other rows. Threads and a
        GPU's algorithms are the caller's: torch.set_num_threads(1), torch.use_deterministic_algorithms(True).
    frames: most snapshots of each mask. on_step: called with the iteration after each. progress: whether a bar counts the
        rows; None: in terminals and notebooks.
    The other arguments and all defaults are those of configs/config.yaml, with their units, reasons and sources.

    Return the explanation of all rows, image by image. Raises ValueError, one sentence, for wrong arguments or a failed row.
    """
    arguments = dict(locals())
    _check_execution(batch_size, deterministic=deterministic, compile=compile)
    if method:
        Method.check(method)
        _refuse_arguments_of_a_method(arguments)
    method = method or _method_of(arguments)
    classifier, target = with_task(as_classifier(model), config.named_task(task), target)
    return _explain(method, classifier, images, target, batch_size, deterministic, frames, on_step, progress)


def _check_execution(batch_size: int, **flags: bool) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number, at least 1")
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{key}={flag!r} must be True or False")


def _explain(
    method: Method,
    classifier: Classifier,
    images: Any,
    target: Any,
    batch_size: int,
    deterministic: bool,
    frames: int,
    on_step: Callable[[int], None] | None,
    progress: bool | None,
) -> Explanation:
    batch, names, contexts = as_images(images, classifier)
    parts = []
    with (
        kept_memory(),
        memory_error_as_sentence(),
        _without_autocast(classifier.device.type),
        classifier.frozen_and_folded(batch),
        ExitStack() as stack,
    ):
        check_classifier(classifier, batch[:1], names[0])
        all_rows = make_rows(classifier, batch, names, contexts, target, method.areas)
        rows = iter(all_rows)
        solver = RowSolver(
            prepare=partial(prepare_batch, method, classifier, snapshots=frames),
            optimize=partial(_optimize_counted, stack.enter_context(closing(_bar(len(all_rows), progress))), on_step),
            next_rows=lambda number: list(islice(rows, number)),
            batch_size=batch_size,
            warn=warnings.warn,
            position_matters=partial(batch_position_matters, classifier, batch.shape[1:]) if deterministic else None,
            pad=method.compile,
        )
        for solution in solver:
            for sentence in solution.failures.values():
                raise ValueError(sentence)
            parts.append((solution.rows[0].image_index, solution.explanation))
    explanation = join([explanation for _, explanation in sorted(parts, key=lambda part: part[0])])
    judge_and_warn(explanation)
    return explanation


def _bar(rows: int, progress: bool | None) -> Progress:
    """Return the bar of explain(); in a notebook it is text, too."""
    return Progress(rows, unit="row", shown=True if progress is None and "ipykernel" in sys.modules else progress)


def _optimize_counted(bar: Progress, on_step: Callable[[int], None] | None, batch: RowBatch) -> None:
    """Optimize a batch, and count each iteration of its rows as a part of a row."""

    def count(iteration: int) -> None:
        bar.advance(sum(not row.finished for row in batch.rows) / batch.steps)
        if on_step:
            on_step(iteration)

    optimize(batch, count)


def _without_autocast(device_type: str) -> AbstractContextManager:
    """Return a context in which `precision` decides, not the caller's autocast."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()


def _method_of(arguments: dict[str, Any]) -> Method:
    """Return the method that the arguments of explain() describe."""
    root = {key: arguments[key] for key in ("mask_size", "steps", "lr", "jitter", "noise", "flip")}
    for key in INTERPOLATED:
        read = any(arguments.get(group) in names for group, names in readers(key).items())
        if not read and root[key] != inspect.signature(explain).parameters[key].default:
            warnings.warn(unread(key, root[key]), stacklevel=4)
    for key, value in root.items():
        if not isinstance(value, (int, float, str, Sequence, type(None))):
            raise ValueError(f"{key}={value!r} must be a plain number" + " or two" * (key == "mask_size"))
    config.number(root, "lr")  # torch.optim's annotations do not restrict it

    def option(group: str, choice: str | Callable) -> Callable:
        return config.option(group, choice, **root)

    terms = {"l1": (arguments["lambda_l1"], "l1"), "tv": (arguments["lambda_tv"], "tv")}
    terms |= check_regularizers({} if arguments["regularizers"] is None else arguments["regularizers"])
    groups = ("perturbation", "mask", "score", "ranking", "optimizer", "explainer", "gradient", "scheduler", "stop")
    values = {key: arguments[key] for key in config.METHOD_VALUES}
    for group in set(groups) & set(config.REQUIRED_GROUPS):
        if arguments[group] is None:
            raise ValueError(f"{group}=None: choose one of {', '.join(config.options(group))}, or give a function")
    values |= {group: option(group, arguments[group]) for group in groups if arguments[group] is not None}
    area = arguments["area"]
    return Method(
        **values,
        regularizers={name: (weight, option("regularizer", term)) for name, (weight, term) in terms.items()},
        image_augmentations=[option("augment", "jitter")] if root["jitter"] else [],
        input_augmentations=[option("augment", key) for key in ("noise", "flip") if root[key]],
        areas=tuple(area) if isinstance(area, Sequence) else (area,),
    )


def _refuse_arguments_of_a_method(arguments: dict[str, Any]) -> None:
    for name, parameter in inspect.signature(explain).parameters.items():
        if name not in OUTSIDE_A_METHOD and arguments[name] != parameter.default:
            raise ValueError(
                f"{name}={arguments[name]!r} and method= both choose {name}: write it into the method, "
                f'e.g. mpx.method("fong2017", "{name}=...")'
            )
