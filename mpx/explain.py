"""The library: explain(model, images, ...) -> Explanation, the same objective as the main job's, without a Trainer.

>>> from mpx import explain
>>> explanation = explain(model, images, target="espresso", perturbation="blur_median")
>>> explanation.saliency  # (B,1,H,W) in [0,1], high where the evidence is
>>> explanation.panel(0).save("panel.png")
"""

import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype, to_image

from mpx import config
from mpx.data.images import read_image, to_rgb
from mpx.data.targets import resolve_targets
from mpx.models.classifier import Classifier
from mpx.report import render, results
from mpx.solver.objective import Problem, Recipe, Search, minimise


@dataclass
class Explanation:
    """What B rows (an image and a target each) were found to rest on. All tensors on the CPU."""

    names: list[str]  # of the rows, unique and fit for a file, e.g. "coffee-967-espresso"
    images: list[str]  # of their images
    classes: list[str]  # of their targets, readable
    targets: Tensor  # (B,)
    photos: Tensor  # (B,3,H,W) in [0,1]
    perturbed: Tensor  # (B,3,H,W) the photo without its evidence (deletion, dual) or with nothing else (preservation)
    parameter: Tensor  # (B,1,h,w) what was learnt
    mask: Tensor  # (B,1,H,W) 1 keeps a pixel, 0 perturbs it
    saliency: Tensor  # (B,1,H,W) in [0,1], high where the evidence is: 1-mask, in a preservation the mask
    p_before: Tensor  # (B,) softmax probability of the target on the photo,
    p_after: Tensor  # (B,) on `perturbed`, without augment,
    p_reference: Tensor  # (B,) and on the fully perturbed photo
    curves: dict[str, Tensor]  # term -> (steps,B): total and its weighted parts, probability, area
    iterations: list[int]  # of the F snapshots: 0 is the start, the last one the result
    frames: Tensor  # (F,B,3,H,W) uint8, the perturbed photo at each
    frame_saliency: Tensor  # (F,B,1,H,W) uint8
    frame_masks: Tensor  # (F,B,1,h,w)
    game: str
    seconds: float  # of the whole batch

    @property
    def area(self) -> Tensor:
        """(B,) mean saliency: the share of the photo that is evidence."""
        return self.saliency.mean((1, 2, 3))

    @property
    def p_normalised(self) -> Tensor:
        """(B,) (p_after - p_reference) / (p_before - p_reference), Fong & Vedaldi 2017, footnote 4."""
        return (self.p_after - self.p_reference) / (self.p_before - self.p_reference)

    def panel(self, row: int = 0) -> Image.Image:
        """Photo | saliency over it | perturbed photo, with class, probabilities and area."""
        return render.panel(self, row)

    def save(self, folder) -> None:
        """Writes masks/, panels/, evolution/ and results.csv into the folder, each file whole or not at all."""
        folder = Path(folder)
        for row in range(len(self.names)):
            results.save_row(folder, self, row)
        results.write_csv(folder / "results.csv", results.table_rows(self))

    def _repr_png_(self) -> bytes:  # a notebook shows the panels by itself
        buffer = io.BytesIO()
        render.sheet(self, range(len(self.names))).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"Explanation of {len(self.names)} rows\n{results.format_table(results.table_rows(self))}"

    def __len__(self) -> int:
        return len(self.names)


@torch.no_grad()
def read_off(search: Search, images: Sequence[str], classes: Sequence[str], seconds: float, keep=None) -> Explanation:
    """The explanation a finished search found; `keep` lists its rows to report (default all)."""
    problem = search.problem
    keep = torch.tensor(range(len(images)) if keep is None else keep, dtype=torch.long)
    snapshots = search.snapshots
    perturbed = [problem.perturbed(p) for p in snapshots]  # the last is the one shown, stored and evaluated
    masks = [problem.mask(p).clamp(0, 1) for p in snapshots]  # rounding may leave [0,1] by an ulp
    after = problem.probability(perturbed[-1])

    def rows(x: Tensor) -> Tensor:
        return x.detach().cpu()[keep]

    def bytes_(x: Tensor) -> Tensor:
        return rows((x * 255).round().clamp(0, 255).byte())

    targets = rows(problem.targets)
    images, classes = [images[i] for i in keep], [classes[i] for i in keep]
    return Explanation(
        names=[f"{i}-{t}-{slug(c)}" if c != str(int(t)) else f"{i}-{t}" for i, t, c in zip(images, targets, classes)],
        images=images,
        classes=classes,
        targets=targets,
        photos=rows(problem.photos),
        perturbed=rows(perturbed[-1]),
        parameter=rows(snapshots[-1]),
        mask=rows(masks[-1]),
        saliency=rows(problem.saliency(masks[-1])),
        p_before=rows(problem.p_before),
        p_after=rows(after),
        p_reference=rows(problem.p_reference),
        curves={k: v.cpu()[:, keep] for k, v in search.history.items() if k != "gradient"},
        iterations=search.iterations,
        frames=torch.stack([bytes_(x) for x in perturbed]),
        frame_saliency=torch.stack([bytes_(problem.saliency(m)) for m in masks]),
        frame_masks=torch.stack([rows(p) for p in snapshots]),
        game=problem.recipe.game,
        seconds=seconds,
    )


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def class_name(target: int, categories: Sequence[str] | None) -> str:
    return categories[target] if categories else str(target)


def explain(
    model: nn.Module,
    images,
    target=None,
    *,
    perturbation: str | Callable = "blur_gaussian",
    game: str = "deletion",
    mask: str | Callable = "grid",
    mask_size: int | Sequence[int] = 28,
    score: str | Callable = "probability",
    lambda_l1: float = 0.3,
    lambda_tv: float = 0.2,
    regularizers: dict[str, tuple[float, Callable]] | None = None,
    jitter: int = 4,
    noise: float = 0.0,
    flip: float = 0.0,
    samples: int = 1,
    steps: int = 150,
    lr: float = 0.1,
    optimizer: str | Callable = "adam",
    scheduler: str | Callable | None = None,
    seed: int = 0,
    precision: str = "32",
    batch_size: int = 16,
    frames: int = 24,
    on_step: Callable[[int], None] | None = None,
) -> Explanation:
    """Learns which pixels each image's class rests on.

    model: an mpx.Classifier, or any nn.Module from images in [0,1] to (B,classes); it is frozen meanwhile and handed back
        as it came. Wrap a network that wants normalised input: Classifier(network, mean, std).
    images: (B,3,H,W) or (3,H,W) in [0,1], or a file, a PIL image or a list of them (preprocessed as the Classifier says).
    target: None for each image's top class; an index, a name, "top2", or a list of these, one mask for each; or a tensor
        (B,) of indices, one for each image.
    perturbation, mask, score, optimizer, scheduler: an option's name in configs/, or a function of the same contract.
    regularizers: further terms, name -> (weight, function of the saliency (B,1,h,w) giving (B,)).
    The other keys and all defaults are config.yaml's, where each has its unit, its reason and its source.

    Returns the explanation of all rows, image by image. Raises ValueError, one sentence, for what cannot be done.
    """
    root = {"mask_size": mask_size, "steps": steps, "lr": lr, "jitter": jitter, "noise": noise, "flip": flip}
    option = partial(config.option, **root)
    weights = {"l1": lambda_l1, "tv": lambda_tv}
    recipe = Recipe(
        perturbation=option("perturbation", perturbation),
        mask=option("mask", mask),
        score=option("score", score),
        regularizers={k: (w, option("regularizer", k)) for k, w in weights.items()} | (regularizers or {}),
        under_mask=[option("augment", "jitter")] if jitter else [],
        over_mask=[option("augment", k) for k in ("noise", "flip") if root[k]],
        game=game,
        samples=samples,
        steps=steps,
        optimizer=option("optimizer", optimizer),
        scheduler=scheduler and option("scheduler", scheduler),
        precision=precision,
        seed=seed,
    )
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    photos, names = _as_batch(images, classifier)
    with classifier.frozen():
        classifier.check(photos[:1].to(classifier.device))
        rows = _rows(classifier, photos, names, target)
        parts = [
            solve(recipe, classifier, rows[i : i + batch_size], frames, partial(minimise, on_step=on_step))
            for i in range(0, len(rows), batch_size)
        ]
    for _, failures in parts:
        for sentence in failures.values():
            raise ValueError(sentence)
    return _join([explanation for explanation, _ in parts])


@dataclass(frozen=True)
class Row:
    """One problem: a photo (3,H,W) in [0,1] and a class."""

    photo: Tensor
    target: int
    image: str  # its name


def solve(recipe: Recipe, classifier, rows: Sequence[Row], frames: int, run: Callable) -> tuple[Explanation, dict]:
    """Explains a batch of rows; `run(search)` does the steps. Returns the sound rows, and row -> sentence for the others."""
    start, where = time.perf_counter(), classifier.device
    photos = torch.stack([row.photo for row in rows]).to(where)
    targets = torch.tensor([row.target for row in rows], device=where)
    search = Search(Problem(recipe, classifier, photos, targets, [row.image for row in rows]), frames)
    run(search)
    failures = search.failures()
    classes = [class_name(row.target, classifier.categories) for row in rows]
    sound = [i for i in range(len(rows)) if i not in failures]
    return read_off(search, [row.image for row in rows], classes, time.perf_counter() - start, sound), failures


@torch.no_grad()
def _rows(classifier, photos: Tensor, names: list[str], target) -> list[Row]:
    if isinstance(target, Tensor):
        if target.shape != (len(photos),):
            raise ValueError(f"target of shape {tuple(target.shape)} must be ({len(photos)},): one index for each image")
        specs = target.tolist()
    else:
        specs = ["top1" if target is None else target] * len(photos)
    rows = []
    for photo, name, spec in zip(photos, names, specs):
        logits = classifier(photo[None].to(classifier.device))[0]
        rows += [Row(photo, t, name) for t in resolve_targets(spec, logits, None, classifier.categories)]
    return rows


def _as_batch(images, classifier) -> tuple[Tensor, list[str]]:
    if isinstance(images, Tensor):
        photos = images.detach() if images.ndim == 4 else images.detach()[None]
        if photos.ndim != 4 or photos.shape[1] != 3:
            raise ValueError(f"images of shape {tuple(images.shape)} must be (B,3,H,W) or (3,H,W)")
        names = [f"image{i}" for i in range(len(photos))]
    else:
        items = list(images) if isinstance(images, (list, tuple)) else [images]
        names = [f"image{i}" if isinstance(x, Image.Image) else Path(x).stem for i, x in enumerate(items)]
        names = [f"{name}-{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
        prepare = classifier.preprocess or (lambda image: to_dtype(to_image(image), torch.float32, scale=True))
        pictures = [to_rgb(x) if isinstance(x, Image.Image) else read_image(x) for x in items]
        tensors = [prepare(picture) for picture in pictures]
        if len({x.shape for x in tensors}) > 1:
            raise ValueError("images differ in size: give the Classifier a preprocess, or resize them")
        photos = torch.stack([torch.as_tensor(x) for x in tensors])
    low, high = photos.min().item(), photos.max().item()
    if not (0 <= low and high <= 1):
        raise ValueError(
            f"images range from {low:.2f} to {high:.2f}, but must be in [0,1]: give them unnormalised and let "
            "Classifier(network, mean, std) normalise"
        )
    return photos.float(), names


def _join(parts: list[Explanation]) -> Explanation:
    """One explanation of the rows of several batches."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in Explanation.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        first = values[0]
        if name == "iterations" or name == "game":
            joined[name] = first
        elif name == "curves":
            joined[name] = {term: torch.cat([v[term] for v in values], 1) for term in first}
        elif isinstance(first, Tensor):
            joined[name] = torch.cat(values, 1 if name.startswith("frame") else 0)
        else:
            joined[name] = sum(values[1:], first)
    return Explanation(**joined)


class MeaningfulPerturbation:
    """Captum's attribution convention: `MeaningfulPerturbation(model).attribute(inputs, target=...)`.

    model: as explain()'s. mean, std: where inputs are normalised tensors, what they were normalised with; they are undone
    first. options: explain()'s keys.
    """

    def __init__(self, model: nn.Module, mean=None, std=None, **options):
        self.model, self.options = model, options
        self.classifier = model if mean is None and std is None else Classifier(model, mean or 0.0, std or 1.0)
        self.mean = torch.as_tensor(0.0 if mean is None else mean).view(-1, 1, 1)
        self.std = torch.as_tensor(1.0 if std is None else std).view(-1, 1, 1)

    def attribute(self, inputs: Tensor, target=None) -> Tensor:
        """inputs: (B,3,H,W); target: None, an index, or one for each input -> saliency (B,1,H,W) in [0,1]."""
        photos = inputs.detach() * self.std.to(inputs) + self.mean.to(inputs)
        if (self.mean != 0).any() or (self.std != 1).any():
            photos = photos.clamp(0, 1)  # undoing a normalisation rounds
        if isinstance(target, (list, tuple)):
            target = torch.tensor(target)
        return explain(self.classifier, photos, target, **self.options).saliency.to(inputs)
