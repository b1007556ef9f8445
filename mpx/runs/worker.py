"""What every worker does, in the main process or one of its own: takes images, explains them batch by batch, keeps the rows.

A row is on disk before the session (mpx.runs.coordinator) hears of it.
"""

import math
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from mpx import config
from mpx.data.images import read_image
from mpx.data.targets import resolve_targets
from mpx.errors import is_out_of_memory
from mpx.explanation import Explanation
from mpx.learning.batching import batch_position_matters, begin, solve_all
from mpx.learning.learner import fit
from mpx.learning.rows import Row
from mpx.models.checks import check_classifier
from mpx.runs import devices as shares
from mpx.runs import launch as workers
from mpx.runs import store, summaries, tables
from mpx.runs.evaluation import Evaluator, place, wanted
from mpx.runs.tensorboard import Means


def work(session, cfg: dict, folder: Path, where: torch.device, group: workers.Group | None = None) -> None:
    """Explains the images that `session` hands out on one device; in a group the leader alone talks to it."""
    cfg = OmegaConf.create(cfg)
    shares.keep_freed_memory()
    if group:
        group.join()
        session = session if group.rank == 0 else None
    method, make_trainer = config.build_method(cfg), config.trainer(cfg)
    options = group.trainer if group else partial(workers.alone, where)
    progress = Progress(session) if session else None
    callbacks = [*make_trainer.keywords.get("callbacks", ()), *([progress] if progress else [])]

    def run(search):
        going = [seat for seat in search.seats if not seat.over]
        fit(search, lambda: make_trainer(**options(), callbacks=callbacks))
        if progress:
            progress.skip(search, sum(search.steps - seat.at for seat in going if seat.over))
        if group:
            group.average(search.history)
        return search

    classifier = config.classifier(cfg, where)
    with shares.same_bits(cfg.deterministic), classifier.frozen_and_folded():
        take = RowSource(session, classifier, cfg.target, method.areas, wanted(cfg)) if session else None
        samples = group.samples(method.samples) if group else None
        measures = Evaluator(cfg, method, classifier)
        start = partial(_begin, cfg, method, classifier, samples=samples)
        if session:
            session.say(f"{classifier.name} on {where}")
        places = partial(batch_position_matters, classifier, classifier.preprocess.crop) if cfg.deterministic else None
        size = config.batch_size(cfg, where)
        take, warn = group.shared(take) if group else take, session.warn if session else lambda text: None
        for rows, explanation, failures in solve_all(start, run, take, size, places, warn, not group, method.compile):
            if session and method.explainer:  # it has no steps to tell of
                session.step(len({row.image_name for row in rows}))
            if session:
                keep(session, cfg, folder, rows, explanation, failures, where, measures)


def _begin(cfg, method, classifier, rows: list[Row], **options):
    """With snapshots on the way where somebody will see them."""
    seen = any(row.image_index < max(config.pictures(cfg), cfg.log_images) for row in rows)
    return begin(method, classifier, rows, cfg.frames if seen else 2, **options)


class RowSource:
    """take(n): at most n rows of the session's next images; none at the end. Images that cannot be explained are skipped."""

    def __init__(self, session, classifier, target, areas: tuple, places: bool = False):
        self.session, self.classifier, self.target, self.areas, self.places = session, classifier, target, areas, places
        self.each = len(areas) * (len(target) if OmegaConf.is_list(target) else 1)  # rows of an image, at most
        self.waiting, self.checked = [], False

    def __call__(self, number: int) -> list[Row]:
        while len(self.waiting) < number:
            wanted = math.ceil((number - len(self.waiting)) / self.each)
            items = self.session.take(wanted)
            for n, item, done in items:
                if item.problem:
                    self.session.skip(item.name, item.problem)
                    continue
                try:
                    photo, size = self.classifier.preprocess(read_image(item.path)), os.stat(item.path).st_size
                except (ValueError, OSError) as error:
                    self.session.skip(item.name, str(error))
                    continue
                if fault := self._fault(photo):
                    self.session.skip(item.name, fault)
                    continue
                try:
                    targets = {t: None for t in self._targets(photo, item.label)}
                    if self.places:
                        targets = {t: place(self.classifier, item, t) for t in targets}
                except ValueError as error:
                    self.session.skip(item.name, str(error))
                    continue
                rows = [
                    Row(photo, t, item.name, area, n, at, item.regions) for t, at in targets.items() for area in self.areas
                ]
                problems = np.array([row.key for row in rows], np.str_)
                stamp = {"row_keys": problems, "label": str(item.label), "path": str(item.path), "file_bytes": size}
                self.waiting += [
                    replace(row, provenance=stamp | {"row_key": row.key}) for row in rows if row.key not in done
                ]
            if not items or len(items) < wanted and self.waiting:  # fewer near the end, so that every worker has some
                break
        rows, self.waiting = self.waiting[:number], self.waiting[number:]
        return rows

    def _fault(self, photo: Tensor) -> str | None:
        """Why this photo cannot be explained; what would go wrong with any photo, by the model or the target, stops the run.

        Once a photo has passed, only `_targets` looks at the others.
        """
        if self.checked:
            return None
        try:
            logits = check_classifier(self.classifier, photo[None])[0]
        except ValueError as error:
            check_classifier(self.classifier, torch.rand(photo[None].shape, generator=torch.Generator().manual_seed(0)))
            return str(error)
        if "label" not in (self.target if OmegaConf.is_list(self.target) else [self.target]):
            resolve_targets(self.target, logits, None, self.classifier.categories)
        self.checked = True
        return None

    @torch.no_grad()
    def _targets(self, photo: Tensor, label) -> tuple[int, ...]:
        logits = self.classifier(photo[None].to(self.classifier.device))[0]
        if not logits.isfinite().all():
            raise ValueError("the model's output is NaN or infinite on the untouched photo")
        return tuple(resolve_targets(self.target, logits, label, self.classifier.categories))


def keep(session, cfg, folder: Path, rows: list[Row], e: Explanation, failures: dict, where: torch.device, measures) -> None:
    """Evaluator the sound rows of a batch, writes them and tells the session."""
    for i, sentence in failures.items():
        session.skip(rows[i].image_name, sentence.removeprefix(f"{rows[i].image_name}: "))
    sound = [row for i, row in enumerate(rows) if i not in failures]
    versions = [f"{name} {version}" for name, version in summaries.package_versions().items()]
    computed_with = ", ".join([*versions, f"{where}", f"{torch.get_num_threads()} threads", f"batch {e.batch_size}"])
    measured, by, fault = ["{}"] * len(sound), [""] * len(sound), None
    try:
        if sound:
            measured = measures(sound, e.saliency, torch.stack([e.p_before, e.p_after, e.p_reference]))
            by = [measures.stamp(row.regions) for row in sound]
    except BaseException as error:  # the masks are kept, and measured when the run is continued
        fault = error
    for i, row in enumerate(sound):  # one by one, so that a kill between takes no picture from TensorBoard
        stamp = row.provenance | {"computed_with": computed_with, "pictures": row.image_index < config.pictures(cfg)}
        stamp |= {"metrics": measured[i], "measured_with": by[i]}
        one, means = e.only([i]), Means()
        means.add(one.curves)
        store.save_row(folder, one, 0, **stamp)
        session.found(tables.row_values(e, i) | stamp, means.sums, one if row.image_index < cfg.log_images else None)
    if isinstance(fault, RuntimeError) and is_out_of_memory(fault):
        raise ValueError("out of memory while measuring: the masks are kept; a smaller batch_size needs less") from fault
    if fault:
        raise fault


class Progress(pl.Callback):
    """Tells the session how far it is, with the mean score and area of the batch at hand, twice a second."""

    def __init__(self, session):
        self.session, self.told, self.way, self.at = session, 0.0, 0.0, 0

    def on_train_start(self, trainer, module):
        self.at = sum(seat.at for seat in module.search.seats)

    def on_train_batch_end(self, trainer, module, *_):
        search, ends = module.search, [seat.at - 1 for seat in module.search.seats]
        before, self.at = self.at, sum(ends) + len(ends)
        self.way += self._images(search, self.at - before)
        if search.paused or time.perf_counter() - self.told > 0.5:
            found = (search.history[term][ends, range(len(ends))] for term in ("probability", "area"))
            p, area = (values.mean().item() for values in found)  # waits for the device
            self.session.step(self.way, f"score {p:.3f} area {area:.3f}")
            self.told, self.way = time.perf_counter(), 0.0

    def skip(self, search, steps: int) -> None:
        """What rows that stopped by themselves have left out."""
        self.session.step(self._images(search, steps))

    def _images(self, search, steps: int) -> float:
        """The part of the way that these steps of single rows are."""
        names = [seat.problem.names[seat.row] for seat in search.seats]
        return steps / search.steps * len(set(names)) / len(names)
