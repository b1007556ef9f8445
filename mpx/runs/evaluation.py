"""What metrics ask for, made of what is known of a batch of rows: in a run after each batch, or of masks found before.

They see the saliency as it is stored, so both give the same numbers. These are kept with a row as JSON, metric -> suffix ->
number; their columns in results.csv are metric or metric_suffix.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mpx import config
from mpx.data.annotations import Annotation, regions_digest
from mpx.data.images import read_image
from mpx.data.targets import region_of
from mpx.learning.batching import solve
from mpx.learning.method import Method
from mpx.learning.objective import draws
from mpx.learning.rows import Row
from mpx.learning.search import minimise
from mpx.metrics.areas import group_rows, sum_of_areas
from mpx.metrics.base import Metric, MetricContext, column_name
from mpx.metrics.summary import SummaryContext
from mpx.perturbations.base import PerturbationContext, fully_perturbed
from mpx.runs import store, tables

log = logging.getLogger("mpx")


class Evaluator:
    """The metrics that a config chooses, for rows of one classifier."""

    def __init__(self, cfg, method: Method, classifier):
        self.metrics, self.method, self.classifier = config.metrics(cfg), method, classifier
        others = config.other_perturbations(cfg).items()
        own = _kind(method.perturbation)
        self.perturbations = {"own": method.perturbation} | {name: one for name, one in others if _kind(one) != own}
        self.stamp = stamps(cfg)

    def __call__(self, found: list[Row], saliency: Tensor, judged: Tensor | None) -> list[str]:
        """JSON of each row's metrics. saliency: (B,1,H,W); judged: (3,B) p_before, p_after, p_reference, if searched for."""
        where, saliency = self.classifier.device, saliency.half().float()
        targets = torch.tensor([row.target for row in found], device=where)
        context = MetricContext(
            classifier=self.classifier,
            images=torch.stack([row.image for row in found]).to(where),
            targets=targets,
            game=self.method.game,
            annotations=[row.annotation for row in found],
            perturbations={k: partial(self._perturbed, operator, targets) for k, operator in self.perturbations.items()},
            probabilities=None if judged is None else judged.to(where),
            explain=partial(self._explain, [row.area for row in found]),
        )
        values = {name: metric(saliency.to(where), context) for name, metric in self.metrics.items()}
        lists = {name: {suffix: _plain(column) for suffix, column in some.items()} for name, some in values.items()}
        return [json.dumps({n: {s: v[i] for s, v in some.items()} for n, some in lists.items()}) for i in range(len(found))]

    def _perturbed(self, operator: Callable, targets: Tensor, images: Tensor) -> Tensor:
        """The images (B,3,H,W) with everything perturbed."""
        context = PerturbationContext(self.classifier, targets, draws(self.method.seed, images, targets))
        return fully_perturbed(operator, images, context)

    def _explain(self, areas: list, classifier, images: Tensor, targets: Tensor, seed: int) -> Tensor:
        problems = [Row(x, t, f"row {i}", a) for i, (x, t, a) in enumerate(zip(images, targets.tolist(), areas))]
        e, failures = solve(replace(self.method, seed=seed, compile=False), classifier, problems, 2, minimise)
        for sentence in failures.values():
            raise ValueError(sentence)
        return e.saliency.to(images)


def stamps(cfg) -> Callable[[dict], str]:
    """An item's regions -> what a row of it is measured by: where it is another, it is measured again."""
    said = {}
    for name, metric in config.metrics(cfg).items():
        options = {k: v for k, v in metric.options.items() if k != "max_batch"}
        said[name] = metric.protocol | {"options": options}
        if "perturbations" in metric.needs:
            said[name]["other_perturbations"] = list(config.other_perturbations(cfg))
    seeing = [name for name, metric in config.metrics(cfg).items() if "annotations" in metric.needs]
    return lambda regions: json.dumps(said | {n: said[n] | {"regions": regions_digest(regions)} for n in seeing}, default=str)


def again(session, cfg, where: torch.device) -> None:
    """Evaluator the session's rows that were found before these metrics were asked for, or other regions given."""
    behind = session.behind(stamps(cfg))
    if not behind:
        return
    log.info(f"measuring {len(behind)} masks that were found before")
    classifier, size, lost = config.classifier(cfg, where), config.batch_size(cfg, torch.device("cpu")), {}
    with classifier.frozen_and_folded():
        measures = Evaluator(cfg, config.build_method(cfg), classifier)
        chosen = measures.metrics
        for k in range(0, len(behind), size):
            stored = [store.load_row(session.folder / name) for name in behind[k : k + size]]
            pairs = [(row, problem) for row in stored if (problem := _row(session, cfg, row, classifier, lost))]
            if not pairs:
                continue
            stored, found = zip(*pairs)
            saliency = torch.stack([torch.from_numpy(row["saliency"])[None] for row in stored])
            judged = torch.tensor([[row[p] for row in stored] for p in ("p_before", "p_after", "p_reference")])
            stamp = [measures.stamp(problem.regions) for problem in found]
            known = [(json.loads(row.get("measured_with") or "{}"), json.loads(by)) for row, by in zip(stored, stamp)]
            kept = {name for name in chosen if all(old.get(name) == new[name] for old, new in known)}
            measures.metrics = {name: metric for name, metric in chosen.items() if name not in kept}
            for row, by, measured in zip(stored, stamp, measures(found, saliency, judged)):
                values = json.loads(row.get("metrics", "{}")) | json.loads(measured)
                row |= {"metrics": json.dumps({name: values[name] for name in chosen}), "measured_with": by}
                store.replace_row(session.folder / "masks" / f"{row['name']}.npz", row)
            session.measured(stored)
    if lost:
        image, why = next(iter(lost.items()))
        log.warning(f"{len(lost)} images are not measured, as {image}: {why}; bring them back and give the command again")


def summed(session, cfg, where: torch.device) -> list[dict]:
    """Of each image and class with masks of several areas: the metrics of their sum, for summed.csv (`sum_of_areas`)."""
    table = session.table()
    found = [places for places in group_rows([(row["image"], row["target"]) for row in table]).values() if len(places) > 1]
    of_maps = {name: metric for name, metric in config.metrics(cfg).items() if "explain" not in metric.needs}
    if not found or not of_maps:
        return []
    classifier, lines, size = config.classifier(cfg, where), [], config.batch_size(cfg, torch.device("cpu"))
    with classifier.frozen_and_folded():
        measures = Evaluator(cfg, config.build_method(cfg), classifier)
        measures.metrics = of_maps  # the sum is of no search that could be done again
        for k in range(0, len(found), size):
            files = [[session.folder / table[p]["mask"] for p in places] for places in found[k : k + size]]
            stored = [[store.load_row(file) for file in some] for some in files]
            pairs = [(some, problem) for some in stored if (problem := _row(session, cfg, some[-1], classifier, {}))]
            if not pairs:
                continue
            stored, these = zip(*pairs)
            sums = [
                sum_of_areas(torch.stack([torch.from_numpy(r["saliency"]).float()[None] for r in some])) for some in stored
            ]
            saliency = torch.stack([x / x.max().clamp(min=1e-6) for x in sums])
            for some, measured in zip(stored, measures(these, saliency, None)):
                lines.append({key: some[0][key] for key in ("image", "target", "class")} | tables.metric_columns(measured))
    return lines


def _row(session, cfg, row: dict, classifier, lost: dict[str, str]) -> Row | None:
    """The problem of a stored row; None where its photo is gone, of which `lost` is told."""
    item, area = session.items[session.places[row["image"]]], None if math.isnan(row["requested_area"]) else row["requested_area"]
    try:
        photo = classifier.preprocess(read_image(item.path))
        region = place(classifier, item, row["target"]) if wanted(cfg) else None
    except ValueError as error:
        lost[row["image"]] = str(error)
        return None
    return Row(photo, row["target"], row["image"], area, annotation=region, regions=item.regions)


def wanted(cfg) -> bool:
    """Whether a metric asks for places."""
    return any("annotations" in metric.needs for metric in config.metrics(cfg).values())


def place(classifier, item, target: int) -> Annotation | None:
    """Where an item's class is, if its dataset says so."""
    if not item.regions:
        return None
    classes = len(classifier.categories) if classifier.categories else 10**9
    region = region_of(target, item.regions, classes, classifier.categories)
    return region and Annotation(region, read_image(item.path).size, classifier.preprocess)


def summary(metrics: dict[str, Metric], learnt_with: str, table: list[dict]) -> dict[str, dict]:
    """Column -> value, interval95, n, better, protocol and learnt_with, over the rows of a results table."""
    said = {}
    targets = np.array([row["target"] for row in table])
    numbers = {image: n for n, image in enumerate(dict.fromkeys(row["image"] for row in table))}
    context = SummaryContext(targets, np.array([numbers[row["image"]] for row in table]))
    for name, metric in metrics.items():
        columns = {
            column.removeprefix(name).removeprefix("_"): np.array([_number(row.get(column)) for row in table])
            for column in dict.fromkeys(key for row in table for key in row)
            if _owner(column, metrics) == name
        }
        if not columns:
            continue
        found = metric.summarise(columns, context)
        for suffix, one in {"": found, **found.pop("parts", {})}.items():
            said[column_name(name, suffix)] = one | {
                "better": metric.direction_of(suffix),
                "protocol": metric.protocol,
                "learnt_with": learnt_with,
            }
    return said


def _kind(perturbation: partial) -> tuple:
    """What it is: another strength is no other perturbation, another colour is."""
    return perturbation.func, perturbation.keywords.get("color")


def _owner(column: str, metrics) -> str | None:
    """The metric that a column of the table is of."""
    return max((name for name in metrics if column == name or column.startswith(f"{name}_")), key=len, default=None)


def _plain(column: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


def _number(value) -> float:
    return math.nan if value is None else value
