"""From finished rows to an Explanation: every snapshot is evaluated once more, as it is shown and reported."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext
from mpx.explanation import Explanation, slug
from mpx.learning.batch import failures
from mpx.learning.objective import Objective
from mpx.learning.pruning import pruned
from mpx.learning.rows import Row, RowState, stacked_places
from mpx.operators import check_range, check_shape
from mpx.rankings import RankingContext
from mpx.tasks.base import Answer
from mpx.tasks.normalised import normalise


@torch.no_grad()
def to_explanation(
    objective: Objective, states: Sequence[RowState], rows: Sequence[Row]
) -> tuple[Explanation, dict[int, str]]:
    """Return the explanation of a batch's rows, without those that failed, and the failures: index -> sentence.

    objective: of the batch in which the rows were prepared, which may hold padding.
    """
    start, failed = time.perf_counter(), failures(states)
    indices = [i for i in range(len(states)) if i not in failed]
    end = max(state.iteration for state in states)
    iterations = [i for i in states[0].snapshot_iterations if i < end] + [end]

    def select(x: Tensor) -> Tensor:
        return x.detach().cpu()[indices]

    parameters = [_snapshot(objective, states, k, iteration) for k, iteration in enumerate(iterations)]
    parameters[-1] = _pruned(objective, parameters[-1], states)
    frames = [_evaluated(objective, parameter) for parameter in parameters]
    last = frames[-1]  # the reported result
    region = objective.task.region_of(objective.prepared_targets, objective.images.shape[2:])
    complement, value_complement, answers_complement = objective.complement(objective.evaluated_mask(parameters[-1]))
    valid_states = [states[i] for i in indices]
    explanation = Explanation(
        **_of_rows(objective, [rows[i] for i in indices]),
        targets=select(objective.targets),
        areas=select(_requested_areas(objective)),
        images=select(objective.images),
        perturbed=select(last.perturbed),
        region=None if region is None else select(region),
        complement=None if complement is None else select(complement),
        parameter=select(parameters[-1]),
        mask=objective.evidence(select(last.evidence)),
        saliency=select(_ranked(objective, last.evidence, states)),
        value_before=select(objective.value_before),
        value_after=select(last.value),
        value_complement=select(value_complement),
        value_reference=select(objective.value_reference),
        value_normalised=select(normalise(last.support, objective.support_before, objective.support_reference)),
        answers_before=[objective.answers_before[i] for i in indices],
        answers_after=[last.answers[i] for i in indices],
        answers_complement=[answers_complement[i] for i in indices],
        curves=_curves(valid_states, end),
        steps=torch.tensor([state.iteration for state in valid_states]),
        iterations=iterations,
        frame_parameters=torch.stack([select(parameter) for parameter in parameters]),
        **_stacked(frames, select),
        task=objective.task,
        method=objective.method,
        game=objective.method.game,
        batch_size=len(objective.targets),
        bands=objective.classifier.bands,
        **_cost(valid_states, (time.perf_counter() - start) / len(states)),
    )
    return explanation, failed


def _requested_areas(objective: Objective) -> Tensor:
    """Return the requested areas (B,); NaN: none."""
    return torch.full(objective.targets.shape, torch.nan) if objective.areas is None else objective.areas


def _cost(states: Sequence[RowState], evaluation_seconds: float) -> dict[str, Any]:
    """Return what each row took; evaluation_seconds: of its evaluation here."""
    return {
        "seconds": torch.tensor([state.seconds for state in states]) + evaluation_seconds,
        "passes": torch.tensor([state.passes for state in states]),
        "forwards": torch.tensor([state.forwards for state in states]),
        "started": torch.tensor([state.started for state in states], dtype=torch.float64),
        "duration": torch.tensor([state.duration for state in states]),
    }


def _snapshot(objective: Objective, states: Sequence[RowState], k: int, iteration: int) -> Tensor:
    """Return the parameters (B,...) at the k-th snapshot; a row that had finished before stays at its result."""
    snapshots = [state.snapshots[k if iteration < state.iteration else -1] for state in states]
    return torch.cat(snapshots + snapshots[-1:] * (len(objective.targets) - len(snapshots)))


def _pruned(objective: Objective, parameter: Tensor, states: Sequence[RowState]) -> Tensor:
    """Return the finished parameters (B,...) without the parts of the masks that make no difference."""
    if not objective.method.prune or objective.method.explainer:
        return parameter
    parameter, forwards = pruned(objective, parameter, objective.method.prune)
    for state, count in zip(states, forwards.tolist()):
        state.add_cost(0.0, count)
    return parameter


class Frame(NamedTuple):
    """A snapshot, evaluated."""

    perturbed: Tensor  # (B,C,H,W)
    evidence: Tensor  # (B,1,H,W) in [0,1]
    value: Tensor  # (B,) that people read
    support: Tensor  # (B,)
    answers: list[list[Answer]]  # of each row, the highest values first


def _stacked(frames: Sequence[Frame], select: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return the fields of an explanation (F,B,...) that show its F snapshots."""
    return {
        "frames": torch.stack([select(_to_bytes(frame.perturbed)) for frame in frames]),
        "frame_evidence": torch.stack([select(_to_bytes(frame.evidence)) for frame in frames]),
        "frame_values": torch.stack([select(frame.value) for frame in frames]),
    }


def _evaluated(objective: Objective, parameter: Tensor) -> Frame:
    perturbed, output = objective.evaluate(objective.evaluated_mask(parameter))
    evidence = objective.perturbation.to_image(objective.evidence(objective.mask(parameter)))
    task, targets = objective.task, objective.prepared_targets
    evidence = evidence.clamp(0, 1)  # rounding may leave [0,1]
    value, support = task.value(output, targets), task.support(output, targets)
    return Frame(perturbed, evidence, value, support, objective.top_answers(output))


def _ranked(objective: Objective, evidence: Tensor, states: Sequence[RowState]) -> Tensor:
    """Return the saliency (B,1,H,W) of finished rows; an explainer's map is one already."""
    method = objective.method
    if method.explainer:
        return evidence
    explainer_context = ExplainerContext(objective.rng.at("ranking"), objective.image_names)
    context = RankingContext(
        trajectory=_trajectory(objective, states),
        images=objective.images,
        classifier=objective.classifier,
        targets=objective.prepared_targets,
        explainer_context=explainer_context,
    )
    with objective.counting():
        saliency = method.ranking(evidence, context)
    check_shape("ranking", method.ranking, saliency, "(B,1,H,W)", tuple(evidence.shape))
    check_range("ranking", method.ranking, saliency)
    passes, _ = objective.take_cost()  # forwards alone are of the search for a layer, once in a process
    for state in states:
        state.add_cost(passes, 0.0)
    return saliency


def _trajectory(objective: Objective, states: Sequence[RowState]) -> Tensor:
    """Return the evidence (B,1,H,W) of each row's mean parameter over its iterations."""
    means = [state.parameter_sum / max(1, state.iteration) for state in states]
    parameter = torch.cat(means + means[-1:] * (len(objective.targets) - len(means)))
    return objective.perturbation.to_image(objective.evidence(objective.mask(parameter))).clamp(0, 1)


def _to_bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).byte()


def _target_name(row: Row, objective: Objective) -> str:
    """Return the name of the row's class, with a number where the image has another object of the class before it."""
    number = f" {row.number}" if row.number > 1 else ""
    return objective.task.name(row.target, objective.classifier.categories, row.place) + number


def _of_rows(objective: Objective, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the names of rows, of their images and of their targets, and the targets' places."""
    return {
        "names": [_row_name(row, objective) for row in rows],
        "image_names": [row.image_name for row in rows],
        "classes": [_target_name(row, objective) for row in rows],
        "places": stacked_places(rows),
    }


def _row_name(row: Row, objective: Objective) -> str:
    name = _target_name(row, objective)
    target = f"{row.target}" if name == f"class {row.target}" else f"{row.target}-{slug(name)}"
    area = "" if row.area is None else f"-area-{row.area:g}"
    return f"{row.image_name}-{target}{area}"


def _curves(states: Sequence[RowState], end: int) -> dict[str, Tensor]:
    """Return term -> (end,B); a row that had finished before keeps its last value."""
    index = [torch.arange(end).clamp(max=state.iteration - 1) for state in states]
    terms = [term for term in (states[0].history if states else ()) if term != "gradient"]
    return {term: torch.stack([s.history[term].cpu()[i] for s, i in zip(states, index)], 1) for term in terms}
