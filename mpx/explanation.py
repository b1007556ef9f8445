"""What is found: rows (an image and a class each) go in, an Explanation comes out.

Both the library (mpx.explain) and the main job (mpx.run) solve their batches here, each with its own way to run the steps.
"""

import gc
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mpx.data.regions import Place
from mpx.metrics.asking import out_of_memory
from mpx.report import areas, render, results
from mpx.solver.attribution import Attribution
from mpx.solver.objective import Problem, Recipe
from mpx.solver.search import Search


@dataclass
class Explanation:
    """What B rows (an image and a target each) were found to rest on. All tensors on the CPU."""

    names: list[str]  # of the rows, unique and fit for a file, e.g. "coffee-967-espresso"
    images: list[str]  # of their images
    classes: list[str]  # of their targets, readable
    targets: Tensor  # (B,)
    areas: Tensor  # (B,) asked; NaN where the method asks for none
    photos: Tensor  # (B,3,H,W) in [0,1]
    perturbed: Tensor  # (B,3,H,W) the photo without its evidence (deletion, dual) or with nothing else (preservation)
    complement: Tensor | None  # (B,3,H,W) and under 1-mask; None where the mask acts inside the network, on no picture
    parameter: Tensor  # (B,...) what was learnt; (B,1,h,w) the mask's cells, but for special masks
    mask: Tensor  # (B,1,H,W) 1 keeps a pixel, 0 perturbs it; of a mask in other domains, its image
    saliency: Tensor  # (B,1,H,W) in [0,1], high where the evidence is: 1-mask, in a preservation the mask
    p_before: Tensor  # (B,) softmax probability of the target on the photo,
    p_after: Tensor  # (B,) on `perturbed`, without augment,
    p_reference: Tensor  # (B,) and on the fully perturbed photo
    curves: dict[str, Tensor]  # term -> (steps,B): total and its weighted parts, probability, area
    iterations: list[int]  # of the F snapshots: 0 is the start, the last one the result
    frames: Tensor  # (F,B,3,H,W) uint8, the perturbed photo at each
    frame_saliency: Tensor  # (F,B,1,H,W) uint8
    frame_masks: Tensor  # (F,B,...) the parameter
    frame_p: Tensor  # (F,B) softmax probability of the target on each
    game: str
    seconds: float  # of the whole batch
    passes: float  # forward and backward of one row through the network,
    forwards: float  # and forward alone, that the search of each row took
    batch_size: int  # rows that were optimized together

    @property
    def area(self) -> Tensor:
        """(B,) mean saliency: the share of the photo that is evidence."""
        return self.saliency.mean((1, 2, 3))

    @property
    def p_normalised(self) -> Tensor:
        """(B,) (p_after - p_reference) / (p_before - p_reference), Fong & Vedaldi 2017, footnote 4."""
        return (self.p_after - self.p_reference) / (self.p_before - self.p_reference)

    def only(self, rows: list[int]) -> "Explanation":
        """The explanation of these rows."""
        return replace(self, **{name: _pick(name, getattr(self, name), rows) for name in self.__dataclass_fields__})

    def panel(self, row: int = 0) -> Image.Image:
        """Photo | saliency over it | perturbed photo, with class, probabilities and area."""
        return render.panel(self, row)

    def smallest(self, enough: float = 0.9) -> list[int]:
        """Of each image and class the row of the smallest area that is enough, else of the largest (`areas.smallest`)."""
        rows = [row | {"row": i} for i, row in enumerate(results.table_rows(self))]
        return [row["row"] for row in areas.smallest(rows, enough, self.game == "preservation")]

    def summed(self, smooth: float = 0.09) -> Tensor:
        """(N,1,H,W) for N images and classes: the masks of their areas, summed and smoothed (`areas.summed`)."""
        places = areas.groups(list(zip(self.images, self.targets.tolist()))).values()
        return torch.stack([areas.summed(self.saliency[rows], smooth) for rows in places])

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


@dataclass(frozen=True)
class Row:
    """One problem: a photo (3,H,W) in [0,1], a class and, where the method wants it, an area."""

    photo: Tensor
    target: int
    image: str  # its name
    area: float | None = None  # asked
    place: int = 0  # of the image in its dataset
    region: Place | None = None  # where the class is, if the dataset says so
    stamp: dict = field(default_factory=dict)  # what is stored with it, by which a session knows it again

    @property
    def problem(self) -> str:
        """Which of its image's rows it is."""
        return f"{self.target}" if self.area is None else f"{self.target} {self.area:g}"


def solve(
    recipe: Recipe, classifier, rows: Sequence[Row], frames: int, run: Callable, pad: int = 0, samples=None
) -> tuple[Explanation, dict]:
    """Explains a batch of rows; `run(search)` does the steps and returns it.

    Returns the sound rows, and row -> sentence for the others.

    pad: the batch is filled up to this size by repeating its last row, and the copies are dropped.
    """
    start, where = time.perf_counter(), classifier.device
    padded = [*rows, *[rows[-1]] * (pad - len(rows))]
    photos = torch.stack([row.photo for row in padded]).to(where)
    targets = torch.tensor([row.target for row in padded], device=where)
    areas = None if rows[0].area is None else torch.tensor([row.area for row in padded], device=where)
    problem = Problem(recipe, classifier, photos, targets, [row.image for row in padded], areas, samples)
    search = Attribution(problem) if recipe.explainer else run(Search(problem, frames))
    failures = {i: sentence for i, sentence in search.failures().items() if i < len(rows)}
    classes = [class_name(row.target, classifier.categories) for row in rows]
    sound = [i for i in range(len(rows)) if i not in failures]
    return read_off(search, [row.image for row in rows], classes, sound, time.perf_counter() - start), failures


def solve_all(
    solve_batch: Callable,
    take: Callable[[int], list[Row]],
    batch_size: int,
    places: Callable | None,
    warn: Callable,
    halve=True,
) -> Iterator[tuple[list[Row], Explanation, dict]]:
    """Solves what `take(n)` gives, at most n rows at a time, until it gives none; yields each batch's rows and solution.

    solve_batch(rows, pad=): see `solve`. places(batch_size): see `place_matters`; where given, batches are padded, and where
    it says so, rows are solved one by one. A batch that does not fit into memory is halved and tried again from its start,
    and the size that worked is kept; with halve=False it is an error. `warn` is told of both.
    """
    waiting, tried = [], None
    while waiting := waiting or take(batch_size):
        rows, rest = waiting[:batch_size], waiting[batch_size:]
        solution = None
        try:
            if places and tried != batch_size:
                tried = batch_size
                if places(batch_size):
                    batch_size = 1
                    warn("deterministic=true: the network rounds a row by its place in a batch: rows are solved one by one")
                    continue
            solution = solve_batch(rows, pad=batch_size if places else 0)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if solution is None:  # tried again outside the except block, which holds the failed batch in its traceback
            size = batch_size if places else len(rows)
            if size == 1 or not halve:
                raise ValueError(
                    f"out of memory with {size} rows at once: batch_size={max(1, size // 2)}, precision=bf16, fewer samples "
                    "or a smaller model need less"
                )
            batch_size = size // 2
            gc.collect()
            torch.cuda.empty_cache()
            warn(
                f"out of memory with {size} rows at once: going on with {batch_size} (batch_size={batch_size} starts there)"
                + ("; their bits differ from those of the larger batch" if places else "")
            )
            continue
        waiting = rest
        yield rows, *solution


def place_matters(classifier, size: Sequence[int], batch_size: int, pictures: int = 128) -> bool:
    """Whether the network rounds a picture by its place in the batch, as a last layer of two classes may.

    Random pictures of many colours, (3,*size), are tried in two places each; gradients, which cost more, of the first few.
    """
    random = torch.Generator().manual_seed(0)
    for trial in range(max(4, pictures // batch_size) if batch_size > 1 else 0):
        blocks = torch.rand(batch_size, 3, 4, 4, generator=random) * torch.rand(batch_size, 1, 1, 1, generator=random)
        batch = torch.nn.functional.interpolate(blocks, list(size)).to(classifier.device)
        with torch.set_grad_enabled(trial < 2):
            found = []
            for shift in (0, 1):
                moved = batch.roll(shift, 0).requires_grad_(trial < 2)
                logits = classifier(moved)
                found.append([logits.detach().roll(-shift, 0)])
                if trial < 2:
                    weights = torch.linspace(1, 2, logits.shape[1], device=logits.device, dtype=logits.dtype)
                    found[-1] += [torch.autograd.grad((logits @ weights).sum(), moved)[0].roll(-shift, 0)]
        if not all(map(torch.equal, *found)):
            return True
    return False


@torch.no_grad()
def read_off(search: Search, images: list[str], classes: list[str], keep: list[int], seconds: float) -> Explanation:
    """The explanation that a finished search found, of the rows in `keep`."""
    problem, snapshots = search.problem, search.snapshots

    def rows(x: Tensor) -> Tensor:
        return x.detach().cpu()[keep]

    def bytes_(x: Tensor) -> Tensor:
        return rows((x * 255).round().clamp(0, 255).byte())

    frames, frame_saliency, frame_p = [], [], []
    for parameter in snapshots:
        mask = problem.mask(parameter)
        shown = problem.shown(parameter)
        perturbed, p = problem.judge(shown)
        saliency = problem.site.to_pixels(problem.evidence(mask)).clamp(0, 1)  # rounding may leave [0,1]
        frames.append(bytes_(perturbed))
        frame_saliency.append(bytes_(saliency))
        frame_p.append(rows(p))
    result, final = rows(perturbed), rows(saliency)  # what is returned, shown and stored is what was evaluated last
    rest = problem.opposite(shown)
    targets = rows(problem.targets)
    areas = torch.full(targets.shape, torch.nan) if problem.areas is None else rows(problem.areas)
    tags = [f"-area-{area:g}" if area == area else "" for area in areas.tolist()]
    images, classes = [images[i] for i in keep], [classes[i] for i in keep]
    kinds = [f"{t}" if c == f"class {t}" else f"{t}-{slug(c)}" for t, c in zip(targets.tolist(), classes)]
    return Explanation(
        names=[f"{i}-{kind}{tag}" for i, kind, tag in zip(images, kinds, tags)],
        images=images,
        classes=classes,
        targets=targets,
        areas=areas,
        photos=rows(problem.photos),
        perturbed=result,
        complement=None if rest is None else rows(rest),
        parameter=rows(snapshots[-1]),
        mask=problem.evidence(final),
        saliency=final,
        p_before=rows(problem.p_before),
        p_after=frame_p[-1],
        p_reference=rows(problem.p_reference),
        curves={k: v.cpu()[:, keep] for k, v in search.history.items() if k != "gradient"},
        iterations=search.iterations,
        frames=torch.stack(frames),
        frame_saliency=torch.stack(frame_saliency),
        frame_masks=torch.stack([rows(p) for p in snapshots]),
        frame_p=torch.stack(frame_p),
        game=problem.recipe.game,
        seconds=seconds,
        batch_size=len(problem.targets),
        **problem.spent,
    )


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def class_name(target: int, categories: Sequence[str] | None) -> str:
    return categories[target] if categories else f"class {target}"


def _pick(name: str, value, rows: list[int]):
    if value is None or name in ("iterations", "game", "seconds", "batch_size", "passes", "forwards"):
        return value
    if name == "curves":
        return {term: values[:, rows] for term, values in value.items()}
    if isinstance(value, Tensor):
        return value[:, rows] if name.startswith("frame") else value[rows]
    return [value[row] for row in rows]


def join(parts: list[Explanation]) -> Explanation:
    """One explanation of the rows of several batches."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in Explanation.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        first = values[0]
        if first is None or name in ("iterations", "game", "batch_size", "passes", "forwards"):
            joined[name] = first
        elif name == "curves":
            joined[name] = {term: torch.cat([v[term] for v in values], 1) for term in first}
        elif isinstance(first, Tensor):
            joined[name] = torch.cat(values, 1 if name.startswith("frame") else 0)
        else:
            joined[name] = sum(values[1:], first)
    return Explanation(**joined)
