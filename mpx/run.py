"""The main job: compose, read photos, explain them batch by batch, keep and show what was found.

Exit codes: 0 done, 1 nothing could be done (one sentence on stderr), 3 done except skipped images, 130 interrupted.
"""

import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from mpx import config
from mpx.data import datasets
from mpx.data.images import read_image
from mpx.data.targets import resolve_targets
from mpx.explanation import Row, solve
from mpx.report import results
from mpx.report.tensorboard import TensorBoard
from mpx.solver.module import fit

log = logging.getLogger("mpx")
SKIPPED, INTERRUPTED = 3, 130


def run(cfg: DictConfig, folder: Path, choices: dict) -> int:
    """Explains the dataset of a composed config into `folder`; returns the exit code."""
    where, recipe = config.device(cfg.device), config.recipe(cfg)
    for key, least in (("batch_size", 1), ("limit", 1), ("log_images", 0)):
        if cfg[key] is not None and cfg[key] < least:
            raise ValueError(f"{key}={cfg[key]} must be at least {least}")
    items = _items(cfg, choices)[: cfg.limit]
    classifier = config.classifier(cfg, where)
    command = shlex.join(["mpx", *HydraConfig.get().overrides.task])
    log.info(f"{command}\n{classifier.name} on {where}, {len(items)} images -> {folder}")
    board = None  # made with the first result, so that a run that fails leaves no empty one in TensorBoard
    table, skipped, interrupted = [], [], False
    start = time.perf_counter()
    targets = len(cfg.target) if OmegaConf.is_list(cfg.target) else 1
    steps = recipe.steps * math.ceil(len(items) * targets / cfg.batch_size)
    with classifier.frozen(), progress(steps, len(items)) as bar:
        make_trainer = config.trainer(cfg, where)
        run_search = partial(fit, trainer=partial(make_trainer, [bar]))
        try:
            for rows in batches(_rows(items, classifier, cfg.target, skipped), cfg.batch_size):
                explanation, failures = solve(recipe, classifier, rows, cfg.frames, run_search)
                skipped += [(rows[i].image, sentence) for i, sentence in failures.items()]
                if not len(explanation):
                    continue
                for row in range(len(explanation)):
                    results.save_row(folder, explanation, row)
                table += results.table_rows(explanation)
                results.write_csv(folder / "results.csv", table)
                if board is None:
                    text, terms = OmegaConf.to_yaml(cfg, resolve=True), list(recipe.regularizers)
                    board = TensorBoard(folder, hparams(cfg, choices), text, command, terms, cfg.log_images)
                board.batch(explanation)
                if len(items) > len(rows):
                    log.info(f"{len(table)} rows done, {time.perf_counter() - start:.0f} s")
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            interrupted = True
    for name, reason in skipped:
        log.warning(f"skipped {name}: {reason}")
    if skipped:
        results.write_skipped(folder / "skipped.csv", skipped)
    protocol = {
        "command": command,
        "seconds": round(time.perf_counter() - start, 1),
        "interrupted": interrupted,
        "p_normalised": "(p_after-p_reference)/(p_before-p_reference), softmax, no augment, "
        f"reference and mask's operator: {choices['perturbation']}",
    }
    results.write_json(folder / "summary.json", results.summary(table, skipped, protocol))
    if table:
        board.close(table)
        log.info(results.format_table(table))
        log.info(f"\npictures  {folder}/panels  {folder}/evolution\nnumbers   {folder}/results.csv\ncurves    "
                 f"tensorboard --logdir {folder}")  # fmt: skip
    if interrupted:
        log.error(f"{len(table)} finished rows are kept in {folder}")
        return INTERRUPTED
    if not table:
        raise ValueError(f"no image could be explained: all {len(skipped)} were skipped, see {folder / 'skipped.csv'}")
    return SKIPPED if skipped else 0


def _items(cfg: DictConfig, choices: dict) -> list[datasets.Item]:
    if cfg.images is None:
        return config.build(cfg.dataset, "dataset")
    if choices["dataset"] not in ("sample", "images"):
        raise ValueError(f"images={cfg.images} and dataset={choices['dataset']} name two sources: give one of them")
    files = OmegaConf.to_container(cfg.images) if OmegaConf.is_list(cfg.images) else cfg.images
    if not all(isinstance(file, str) for file in (files if isinstance(files, list) else [files])):
        raise ValueError(f"images={cfg.images} must be a file, a folder, a glob or a list of these")
    return datasets.images(files)


@torch.no_grad()
def _rows(items, classifier, target, skipped: list) -> Iterator[Row]:
    """Reads, classifies and yields the rows of the images that can be explained; appends the others to `skipped`."""
    first = True
    for item in items:
        try:
            photo = classifier.preprocess(read_image(item.path))
        except ValueError as error:
            skipped.append((item.name, str(error)))
            continue
        picture = photo[None].to(classifier.device)
        if first:  # what is wrong with the model or the target for the first photo is wrong for all: let it stop the run
            logits = classifier.check(picture)[0]
            targets = resolve_targets(target, logits, item.label, classifier.categories)
            first = False
        else:
            logits = classifier(picture)[0]
            try:
                if not logits.isfinite().all():
                    raise ValueError("the model's output is NaN or infinite on the untouched photo")
                targets = resolve_targets(target, logits, item.label, classifier.categories)
            except ValueError as error:
                skipped.append((item.name, str(error)))
                continue
        for index in targets:
            yield Row(photo, index, item.name)


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Progress(pl.Callback):
    """One bar over the steps of all batches, with the mean score and area of the batch at hand."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_train_batch_end(self, trainer, module, outputs, iteration, *_):
        self.bar.update()
        if iteration % 10 == 0 and not self.bar.disable:  # reading a number waits for the device
            history = module.search.history
            p, area = (history[k][iteration].mean().item() for k in ("probability", "area"))
            self.bar.set_postfix_str(f"score {p:.3f} area {area:.3f}", refresh=False)


@contextmanager
def progress(steps: int, images: int):
    with tqdm(total=steps, desc=f"{images} images", unit="step", disable=None, dynamic_ncols=True, leave=False) as bar:
        yield Progress(bar)


def hparams(cfg: DictConfig, choices: dict) -> dict:
    """The axes of an ablation, flat and short: group choices and root keys."""
    groups = {k: str(v) for k, v in choices.items() if k in ("model", "perturbation", "mask", "score", "optimizer")}
    for part in ("perturbation", "mask"):
        groups |= {f"{part}.{k}": str(v) for k, v in cfg[part].items() if not k.startswith("_") and k not in cfg}
    values = {k: v for k, v in OmegaConf.to_container(cfg, resolve=True).items() if not isinstance(v, dict)}
    kept = {k: v if isinstance(v, (int, float)) else str(v) for k, v in values.items() if v is not None}
    return groups | {
        k: v for k, v in kept.items() if k not in ("images", "limit", "batch_size", "device", "log_images", "frames")
    }


def help_text() -> str:
    """The menu: every group with its options, every root key with its default and meaning, as the YAML files say them."""
    lines = [
        "mpx: which pixels made the network say that?",
        "",
        "  mpx [key=value ...]    explain photos, e.g. images=photo.jpg perturbation=blur_median lambda_tv=0.2",
        "  mpx -m key=a,b ...     every combination",
        '  mpx --cfg job          the whole config;  eval "$(mpx -sc install=bash)" turns tab completion on',
        "",
        "Groups (group=option; an option's own keys: group.key=value)",
    ]
    for group in sorted(path.name for path in config.CONFIGS.iterdir() if path.is_dir()):
        lines.append(f"  {group:<13} {', '.join(config.options(group))}")
    lines += ["", "Keys"]
    owners = [path for group in ("regularizer", "augment") for path in sorted((config.CONFIGS / group).glob("*.yaml"))]
    for source in [config.CONFIGS / "config.yaml", *owners]:
        for key, value, meaning in re.findall(r"^(\w+): (\S+|\".*?\") +# (.*)$", source.read_text(), re.M):
            lines.append(f"  {f'{key}={value}':<24} {meaning}")
    return "\n".join(lines + ["", f"Every key with its reason and source: {config.CONFIGS / 'config.yaml'}"])


def main() -> None:
    """The console command `mpx`, the same as scripts/run.py."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the sentence says enough
    codes = []
    sys.path.append(os.getcwd())  # so that model.network=my_module:build finds the user's own
    if stray := [
        a for a in sys.argv[1:] if re.match(r"--(?!config-|hydra-|cfg|package|experimental|shell|info)[a-z0-9_.]+=", a)
    ]:
        sys.exit(_complain(ValueError(f"{stray[0]}: keys are written without dashes, {stray[0].lstrip('-')}")))
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))  # Hydra wants it first

    @hydra.main(version_base="1.3", config_path=str(config.CONFIGS), config_name="config")
    def job(cfg: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        try:
            codes.append(run(cfg, Path(hydra_config.runtime.output_dir), dict(hydra_config.runtime.choices)))
            if codes[-1] == INTERRUPTED:
                raise KeyboardInterrupt  # a sweep must not go on with the next job
        except (ValueError, OSError, OmegaConfBaseException) as error:
            if asked_for_traceback:
                raise
            codes.append(_complain(error))

    before = os.environ.get("HYDRA_FULL_ERROR")
    asked_for_traceback = before == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra would print several lines of its own and exit
    try:
        job()
    except (HydraException, OmegaConfBaseException, OSError) as error:
        if asked_for_traceback:
            raise
        codes.append(_complain(error))
    except KeyboardInterrupt:
        print("mpx: interrupted", file=sys.stderr)
        codes.append(INTERRUPTED)
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if before is None else os.environ.update(HYDRA_FULL_ERROR=before)
    sys.exit(max(codes, default=0))


def _complain(error: Exception) -> int:
    hydras = isinstance(error, (HydraException, OmegaConfBaseException))
    text = config.sentence(error) if hydras else str(error)
    if isinstance(error, OSError) and error.filename and not hydras:
        text = f"cannot use {error.filename}: {error.strerror} (hydra.run.dir sets the run's folder)"
    print(f"mpx: {text}", file=sys.stderr)
    return 1
