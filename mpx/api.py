"""The library: explain(model, images, ...) -> Explanation, the same objective as the main job's, without a Trainer.

>>> from mpx import explain
>>> explanation = explain(model, images, target="espresso", perturbation="blur_median")
>>> explanation.saliency  # (B,1,H,W) in [0,1], high where the evidence is
>>> explanation.panel(0).save("panel.png")
"""

import inspect
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, wraps
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from mpx import config
from mpx.data import datasets
from mpx.data.images import read_image, to_rgb
from mpx.data.targets import resolve_targets
from mpx.explanation import Explanation, join
from mpx.learning.batching import batch_position_matters, begin, solve_all
from mpx.learning.method import Method
from mpx.learning.rows import Row
from mpx.learning.search import minimise
from mpx.models.checks import check_classifier
from mpx.models.classifier import Classifier


def _plain(value):
    """A scalar of NumPy or PyTorch as Python's, also inside a list or a dict."""
    if getattr(value, "shape", None) == ():
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return {key: _plain(one) for key, one in value.items()} if type(value) is dict else value


def _scalars(function: Callable) -> Callable:
    """Takes scalars of NumPy and PyTorch for Python's."""

    @wraps(function)
    def called(*args, **options):
        return function(*map(_plain, args), **_plain(options))

    return called


@torch.inference_mode(False)
@torch.enable_grad()  # whatever the caller's mode: Captum's metrics call under no_grad
@_scalars
def explain(
    model: nn.Module,
    images,
    target=None,
    *,
    explainer: str | Callable | None = None,
    perturbation: str | Callable = "blur_gaussian",
    game: str = "deletion",
    mask: str | Callable = "grid",
    mask_size: int | Sequence[int] = 28,
    score: str | Callable = "probability",
    lambda_l1: float = 0.3,
    lambda_tv: float = 0.2,
    regularizers: dict[str, tuple[float, str | Callable]] | None = None,
    dual_weight: float = 1.0,
    area: float | Sequence[float] | None = None,
    gradient: str | Callable | None = None,
    jitter: int = 2,
    noise: float = 0.0,
    flip: float = 0.0,
    samples: int = 1,
    steps: int = 150,
    lr: float = 0.1,
    optimizer: str | Callable = "adam",
    scheduler: str | Callable | None = None,
    stop: str | Callable | None = None,
    seed: int = 0,
    precision: str = "32",
    compile: bool = False,
    method: Method | None = None,
    batch_size: int = 16,
    deterministic: bool = False,
    frames: int = 24,
    on_step: Callable[[int], None] | None = None,
) -> Explanation:
    """Learns which pixels each image's class rests on.

    model: an mpx.Classifier, or any nn.Module from images in [0,1] to (B,classes); it is frozen meanwhile and handed back
        as it came. Wrap a network that wants normalised input: Classifier(network, mean, std).
    images: (B,3,H,W) or (3,H,W) in [0,1]; or a file, a folder, a glob, a PIL image, or a list of these, preprocessed as the
        Classifier says.
    target: None for each image's top class; an index, a name, "top2", or a list of these, one mask for each of them and of
        the images; or a tensor or array (B,) of indices, one for each image.
    perturbation, mask, score, optimizer, scheduler, stop: an option's name in configs/, or a function of the same contract.
    deterministic: fill every batch up to batch_size, so that a row's bits do not depend on its company. Threads and a GPU's
        algorithms are the caller's: torch.set_num_threads(1), torch.use_deterministic_algorithms(True).
    explainer: a baseline in the place of the learnt mask, e.g. "gradcam"; what concerns the search has no say then.
    method: all of these at once, a published method: method=mpx.method("extremal2019").
    regularizers: further terms, name -> (weight, an option's name, or a function of the saliency (B,1,h,w) giving (B,)).
    The other keys and all defaults are config.yaml's, where each has its unit, its reason and its source.

    Returns the explanation of all rows, image by image. Raises ValueError, one sentence, for what cannot be done.
    """
    arguments = dict(locals())
    if not isinstance(model, nn.Module):
        raise ValueError(f"model of type {type(model).__name__} must be a torch.nn.Module")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be at least 1, a whole number")
    if method:
        _alone(arguments)
    root = {"mask_size": mask_size, "steps": steps, "lr": lr, "jitter": jitter, "noise": noise, "flip": flip}
    config.number(root, "lr")  # torch.optim's annotations do not say it
    option = partial(config.option, **root)
    weighed = {"l1": (lambda_l1, "l1"), "tv": (lambda_tv, "tv")} | _pairs(regularizers or {})
    others = {"explainer": explainer, "gradient": gradient, "scheduler": scheduler, "stop": stop}
    method = method or Method(
        perturbation=option("perturbation", perturbation),
        mask=option("mask", mask),
        score=option("score", score),
        regularizers={name: (weight, option("regularizer", term)) for name, (weight, term) in weighed.items()},
        image_augmentations=[option("augment", "jitter")] if jitter else [],
        input_augmentations=[option("augment", k) for k in ("noise", "flip") if root[k]],
        game=game,
        dual_weight=dual_weight,
        areas=tuple(area) if isinstance(area, Sequence) else (area,),
        samples=samples,
        steps=steps,
        **{k: made and option(k, made) for k, made in others.items()},
        optimizer=option("optimizer", optimizer),
        precision=precision,
        compile=compile,
        seed=seed,
    )
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    photos, names = _as_batch(images, classifier)
    kind = classifier.device.type
    callers = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    with classifier.frozen_and_folded(photos.shape[2:]), callers:  # `precision` decides, not the caller's autocast
        check_classifier(classifier, photos[:1])
        rows = _rows(classifier, photos, names, target, method.areas)
        left, parts = iter(rows), []
        places = partial(batch_position_matters, classifier, photos.shape[2:]) if deterministic else None
        start, run = partial(begin, method, classifier, frames=frames), partial(minimise, on_step=on_step)
        for given, explanation, failures in solve_all(
            start, run, lambda n: list(islice(left, n)), batch_size, places, warnings.warn, fill=method.compile
        ):
            for sentence in failures.values():
                raise ValueError(sentence)
            parts.append((given[0].image_index, explanation))
    return join([explanation for _, explanation in sorted(parts, key=lambda part: part[0])])


BESIDE = ("model", "images", "target", "method", "batch_size", "deterministic", "frames", "on_step")  # of a method


def _alone(arguments: dict) -> None:
    for name, parameter in inspect.signature(explain).parameters.items():
        if name not in BESIDE and arguments[name] != parameter.default:
            raise ValueError(
                f"{name}={arguments[name]!r} and method= both choose {name}: write it into the method, "
                f'e.g. mpx.method("fong2017", "{name}=...")'
            )


def _pairs(regularizers: dict) -> dict:
    for name, term in regularizers.items():
        if not isinstance(term, (tuple, list)) or len(term) != 2:
            raise ValueError(
                f"regularizers[{name!r}]={term!r} must be a weight and a term: (0.1, an option's name or a function)"
            )
    return regularizers


@torch.no_grad()
def _rows(classifier, photos: Tensor, names: list[str], target, areas: Sequence[float | None]) -> list[Row]:
    if hasattr(target, "shape"):
        if tuple(target.shape) != (len(photos),):
            raise ValueError(f"target of shape {tuple(target.shape)} must be ({len(photos)},): one index for each image")
        specs = target.tolist()
    else:
        specs = ["top1" if target is None else target] * len(photos)
    rows = []
    for photo, name, spec in zip(photos, names, specs):
        logits = classifier(photo[None].to(classifier.device))[0]
        targets = resolve_targets(spec, logits, None, classifier.categories)
        rows += [Row(photo, t, name, area) for t in targets for area in areas]
    return [replace(row, image_index=place) for place, row in enumerate(rows)]


def _as_batch(images, classifier) -> tuple[Tensor, list[str]]:
    if isinstance(images, Tensor):
        photos = images.detach() if images.ndim == 4 else images.detach()[None]
        if photos.ndim != 4 or photos.shape[1] != 3 or not photos.numel():
            raise ValueError(f"images of shape {tuple(images.shape)} must be (B,3,H,W) or (3,H,W), and not empty")
        names = [f"image{i}" for i in range(len(photos))]
    else:
        photos, names = _read(list(images) if isinstance(images, (list, tuple)) else [images], classifier)
    low, high = photos.min().item(), photos.max().item()
    if not (0 <= low and high <= 1):
        raise ValueError(
            f"images range from {low:.2f} to {high:.2f}, but must be in [0,1]: give them unnormalised and let "
            "Classifier(network, mean, std) normalise"
        )
    return photos.float(), names


def _read(given: list, classifier) -> tuple[Tensor, list[str]]:
    if given and all(isinstance(one, Image.Image) for one in given):
        pictures, names = [to_rgb(one) for one in given], [f"image{i}" for i in range(len(given))]
    elif all(isinstance(one, (str, Path)) for one in given):
        items = datasets.images(given)
        counts = Counter(os.path.abspath(item.path) for one in given for item in datasets.images(one))
        if twice := [path for path, count in counts.items() if count > 1]:  # rows would not be the list's
            raise ValueError(f"image {twice[0]!r} is given {counts[twice[0]]} times: give each file once")
        pictures, names = [read_image(item.path) for item in items], [item.name for item in items]
    else:
        kinds = ", ".join(sorted({type(one).__name__ for one in given}))
        raise ValueError(f"images of type {kinds} must be one tensor, or files, or PIL images")
    tensors = [(classifier.preprocess or to_tensor)(picture) for picture in pictures]
    if len({x.shape for x in tensors}) > 1:
        raise ValueError("images differ in size: give the Classifier a preprocess, or resize them")
    return torch.stack(tensors), names


class MeaningfulPerturbation:
    """Captum's attribution convention: `MeaningfulPerturbation(model).attribute(inputs, target=...)`.

    model: as explain()'s. mean, std: where inputs are normalised tensors, what they were normalised with: it is undone, and
    the model still gets what it expects. options: explain()'s keys.
    """

    def __init__(self, model: nn.Module, mean=0.0, std=1.0, **options):
        self.classifier = model if isinstance(model, Classifier) else Classifier(model, mean, std)
        self.mean, self.std = (torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1) for value in (mean, std))
        self.options = options

    def attribute(self, inputs: Tensor | tuple[Tensor], target=None) -> Tensor | tuple[Tensor]:
        """inputs: (B,3,H,W); target: None for the top class, an index, or one for each input -> saliency (B,1,H,W) in [0,1].

        A tuple of one tensor, as Captum's metrics pass it, is answered with a tuple.

        Pictures up to 0.1 outside [0,1], as metrics that shake their inputs make them, are clipped. Where a metric wants the
        shape of the inputs (captum.metrics.infidelity), give it `.expand_as(inputs)`.
        """
        if isinstance(inputs, tuple):
            return tuple(self.attribute(x, target) for x in inputs)
        photos = inputs.detach() * self.std.to(inputs) + self.mean.to(inputs)
        clipped = photos.clamp(0, 1)
        photos = clipped if (photos - clipped).abs().max() <= 0.1 else photos  # explain() refuses what is further out
        if isinstance(target, (list, tuple)) or hasattr(target, "shape"):  # one for all, or one each
            target = torch.as_tensor(target).reshape(-1)
            target = target.expand(len(photos)) if len(target) == 1 else target
        return explain(self.classifier, photos, target, **self.options).saliency.to(inputs)
