"""How rows (an image and a class each) are solved, a batch at a time or continuously, and read off into Explanations.

Both the library (mpx.api) and the main job (mpx.runs.run) solve their rows here, each with its own way to run the steps.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mpx.errors import is_out_of_memory
from mpx.explanation import Explanation, class_name, slug
from mpx.learning.attribution import Attribution
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.rows import Row
from mpx.learning.search import RowState, Search, failures


def begin(method: Method, classifier, rows: Sequence[Row], frames: int, pad: int = 0, samples=None) -> Search | Attribution:
    """A batch of rows prepared, its search to be run; an explainer's is done.

    pad: the batch is filled up to this size by repeating its last row.
    """
    start, where = time.perf_counter(), classifier.device
    padded = [*rows, *[rows[-1]] * (pad - len(rows))]
    photos = torch.stack([row.image for row in padded]).to(where)
    targets = torch.tensor([row.target for row in padded], device=where)
    areas = None if rows[0].area is None else torch.tensor([row.area for row in padded], device=where)
    problem = Objective(method, classifier, photos, targets, [row.image_name for row in padded], areas, samples)
    search = Attribution(problem, len(rows)) if method.explainer else Search(problem, frames, len(rows))
    for seat in search.seats:
        seat.spent["seconds"] += (time.perf_counter() - start) / len(rows)
    return search


def go_on(search: Search, run: Callable) -> None:
    """The search until it is paused, by `run(search)`, its time shared out."""
    start, going = time.perf_counter(), [seat for seat in search.seats if not seat.over]
    run(search)
    for seat in going:
        seat.spent["seconds"] += (time.perf_counter() - start) / len(going)


def solve(
    method: Method, classifier, rows: Sequence[Row], frames: int, run: Callable, **options
) -> tuple[Explanation, dict]:
    """Explains a batch of rows; `run(search)` does the steps. options: see `begin`.

    Returns the sound rows, and row -> sentence for the others.
    """
    first = search = begin(method, classifier, rows, frames, **options)
    while not search.over:
        go_on(search, run)
        if live := [seat for seat in search.seats if not seat.over]:
            search = Search.of(live, options.get("pad", 0))
    return read_off(first.problem, first.seats, rows)


def solve_all(
    start: Callable,
    run: Callable,
    take: Callable,
    batch_size: int,
    places: Callable | None,
    warn: Callable,
    halve=True,
    fill=False,
) -> Iterator[tuple[list[Row], Explanation, dict]]:
    """Solves what `take(n)` gives, at most n rows at a time, until it gives none; yields each batch's rows and solution.

    start(rows, pad=): see `begin`; run: see `go_on`. Where rows stop by themselves, the place of one that is over is taken
    by the next (continuous batching): it goes through the same steps as in a batch that begins with it. A batch is yielded
    when its last row is over, perhaps after a later one, and is judged as it was prepared.

    fill: batches are filled up to batch_size. places(batch_size): see `batch_position_matters`; where given, they are too, and where
    it says so, rows are solved one by one. What does not fit into memory is begun again with half as many rows at a time,
    and the size that worked is kept; with halve=False it is an error. `warn` is told of both.
    """
    waiting, batches, live, staged, tried = [], [], [], [], None  # batches: on their way, (rows, search as it began)
    while True:
        if not waiting and len(live) + len(staged) < batch_size:
            waiting = take(batch_size)
        if not (live or staged or waiting):
            return
        solutions = None
        try:
            if places and tried != batch_size:
                tried = batch_size
                if places(batch_size):
                    batch_size = 1
                    warn("deterministic=true: the network rounds a row by its place in a batch: rows are solved one by one")
                    continue
            pad = batch_size if places or fill else 0
            if waiting and len(live) + len(staged) < batch_size:
                rows, waiting = waiting[:batch_size], waiting[batch_size:]
                batches.append((rows, None))  # known before it could fail
                batches[-1] = rows, start(rows, pad=pad)
                staged = staged + batches[-1][1].seats
            entering, staged = staged[: batch_size - len(live)], staged[batch_size - len(live) :]
            fresh = batches[-1][1]
            going = fresh if not live and entering == fresh.seats else Search.of(live + entering, pad)
            del fresh
            if not going.over:
                go_on(going, run)
            live = [seat for seat in going.seats if not seat.over]
            del going, entering
            ended = [batch for batch in batches if all(seat.over for seat in batch[1].seats)]
            solutions = [(rows, *read_off(search.problem, search.seats, rows)) for rows, search in ended]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if solutions is None:  # begun again outside the except block, which holds what failed in its traceback
            waiting = [row for rows, _ in batches for row in rows] + waiting
            size = batch_size if places or fill else min(batch_size, len(waiting))
            if size == 1 or not halve:
                raise ValueError(
                    f"out of memory with {size} rows at once: batch_size={max(1, size // 2)}, precision=bf16, fewer samples "
                    "or a smaller model need less"
                )
            batch_size, batches, live, staged = size // 2, [], [], []
            going = entering = fresh = ended = None
            gc.collect()
            torch.cuda.empty_cache()
            warn(
                f"out of memory with {size} rows at once: going on with {batch_size} (batch_size={batch_size} starts there)"
                + ("; their bits differ from those of the larger batch" if places else "")
            )
            continue
        batches = [batch for batch in batches if not any(batch is other for other in ended)]
        ended = None  # nothing but the solutions is held meanwhile
        yield from solutions


def batch_position_matters(classifier, size: Sequence[int], batch_size: int, pictures: int = 128) -> bool:
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
def read_off(problem: Objective, seats: list[RowState], given: Sequence[Row]) -> tuple[Explanation, dict[int, str]]:
    """What rows that are over found, a batch as it was prepared: the sound ones, and row -> sentence for the others."""
    start, wrong = time.perf_counter(), failures(problem, seats)
    keep = [i for i in range(len(seats)) if i not in wrong]
    end = max(seat.at for seat in seats)
    iterations = [i for i in seats[0].iterations if i < end] + [end]

    def rows(x: Tensor) -> Tensor:
        return x.detach().cpu()[keep]

    def bytes_(x: Tensor) -> Tensor:
        return rows((x * 255).round().clamp(0, 255).byte())

    snapshots, frames, frame_saliency, frame_p = [], [], [], []
    for k, iteration in enumerate(iterations):  # a row that was over before stays as it was
        shots = [seat.snapshots[k if iteration < seat.at else -1] for seat in seats]
        snapshots.append(torch.cat(shots + shots[-1:] * (len(problem.targets) - len(shots))))
        mask = problem.mask(snapshots[-1])
        shown = problem.shown(snapshots[-1])
        perturbed, p = problem.judge(shown)
        saliency = problem.site.to_image(problem.evidence(mask)).clamp(0, 1)  # rounding may leave [0,1]
        frames.append(bytes_(perturbed))
        frame_saliency.append(bytes_(saliency))
        frame_p.append(rows(p))
    result, final = rows(perturbed), rows(saliency)  # what is returned, shown and stored is what was evaluated last
    rest = problem.opposite(shown)
    targets, categories = rows(problem.targets), problem.classifier.categories
    areas = torch.full(targets.shape, torch.nan) if problem.areas is None else rows(problem.areas)
    tags = [f"-area-{area:g}" if area == area else "" for area in areas.tolist()]
    images, classes = [given[i].image_name for i in keep], [class_name(given[i].target, categories) for i in keep]
    kinds = [f"{t}" if c == f"class {t}" else f"{t}-{slug(c)}" for t, c in zip(targets.tolist(), classes)]
    spent = {kind: torch.tensor([seats[i].spent[kind] for i in keep]) for kind in seats[0].spent}
    explanation = Explanation(
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
        curves=_curves([seats[i] for i in keep], end),
        steps=torch.tensor([seats[i].at for i in keep]),
        iterations=iterations,
        frames=torch.stack(frames),
        frame_saliency=torch.stack(frame_saliency),
        frame_masks=torch.stack([rows(p) for p in snapshots]),
        frame_p=torch.stack(frame_p),
        game=problem.method.game,
        batch_size=len(problem.targets),
        **spent,
    )
    explanation.seconds += (time.perf_counter() - start) / len(seats)
    return explanation, wrong


def _curves(seats: list[RowState], end: int) -> dict[str, Tensor]:
    """term -> (end,B); a row that was over before keeps its last value."""
    at = [torch.arange(end).clamp(max=seat.at - 1) for seat in seats]
    terms = [term for term in (seats[0].history if seats else ()) if term != "gradient"]
    return {term: torch.stack([seat.history[term].cpu()[i] for seat, i in zip(seats, at)], 1) for term in terms}
