"""What jobs a sweep has, what each is called, and which are to do; with config.py and cli.py what imports Hydra.

Hydra's basic sweeper with three more things. An axis may be made of `cases`, each a name for several overrides
(configs/sweep/blur.yaml). A job whose folder says that it is done, with the same configuration, is not started again. And
one that fails takes nothing away from the others: at the end all that are there are summed up.
"""

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from mpx import config
from mpx.cli.folders import folder_name
from mpx.data.items import fingerprint
from mpx.errors import first_line
from mpx.report import sweep
from mpx.runs import files, store
from mpx.runs.folder import lock
from mpx.runs.resume import to_keep
from mpx.runs.run import RESUMABLE_KEYS, RESUMABLE_WITHOUT_DETERMINISM, images

log = logging.getLogger("mpx")
HOW = {*RESUMABLE_KEYS, *RESUMABLE_WITHOUT_DETERMINISM, "metric", "pictures", "frames", "cluster"}  # keys that do not make it another sweep


class Jobs(Sweeper):
    """params: key -> its values, "7,14,28". cases: axis -> its cases, name -> overrides. Both as in configs/sweep/."""

    def __init__(self, params: dict[str, str] | None = None, cases: dict[str, dict[str, list[str]]] | None = None):
        self.params, self.cases = params or {}, cases or {}

    def setup(self, *, hydra_context, task_function, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        loader, folder = self.context.config_loader, Path(self.config.hydra.sweep.dir)
        parse = OverridesParser.create(config_loader=loader).parse_overrides
        jobs = expand(parse([f"{k}={v}" for k, v in self.params.items()]), self.cases, parse(arguments))
        todo, listed = [], {}
        for name, overrides in jobs.items():  # all are composed before one starts: a typing mistake stops here
            overrides = [*overrides, f"hydra.sweep.subdir='{name}'"]
            if not done(loader.load_sweep_config(self.config, overrides), folder / name, listed):
                todo.append(overrides)
        before = sweep.order(folder)
        files.write_file(folder / sweep.ORDER, "".join(f"{name}\n" for name in dict.fromkeys([*before, *jobs])))
        log.info(f"{len(jobs) - len(todo)} of {len(jobs)} jobs are done in {folder}")
        try:
            returns = self.launcher.launch(todo, initial_job_idx=0) if todo else []
        except Exception as error:  # of the launcher: a job says what it has to say in its folder
            if sweep.jobs(folder):
                log.info(f"\n{sweep.finish(folder)}")
            raise ValueError(f"the jobs could not all be started or ended ({first_line(error)}): the same command "
                             "starts those again that are missing") from error  # fmt: skip
        log.info(f"\n{sweep.finish(folder)}")
        failed = [name for name in jobs if (folder / name / store.FAILED).exists()]
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(jobs)} jobs failed, {', '.join(failed)}: {folder}/table.md says why; the others are "
                "done, and the same command starts only these again"
            )
        return returns


class Finish(Callback):
    """The same summing up after another sweeper's jobs."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        log.info(f"\n{sweep.finish(Path(config.hydra.sweep.dir))}")


def expand(params: list[Override], cases: dict[str, dict[str, list[str]]], typed: list[Override]) -> dict[str, list[str]]:
    """Folder name -> overrides of every job; what is typed takes the place of the axis that varies the same key."""
    axes = {override.get_key_element(): _values(override) for override in params}
    keys = {override.get_key_element() for override in typed}
    for axis, named in cases.items():
        given = {tuple(override.split("=", 1)) for overrides in named.values() for override in overrides}
        varied = Counter(key for key, _ in given)
        if not any(varied[key] > 1 for key in keys):  # what only one case sets, e.g. its model, gives way
            axes[axis] = {k: [o for o in overrides if o.split("=", 1)[0] not in keys] for k, overrides in named.items()}
    fixed = []
    for override in typed:
        key = override.get_key_element()
        if key in axes or override.is_sweep_override():
            axes[key] = _values(override)
        else:
            fixed.append(override.input_line)
    jobs = {}
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        name = folder_name(dict(zip(axes, (label for label, _ in chosen)))) or "run"
        if name in jobs:
            raise ValueError(
                f"two jobs would be in the folder {name}: their values differ in what a folder cannot be called"
            )
        jobs[name] = fixed + [given for _, overrides in chosen for given in overrides]
    return jobs


def _values(override: Override) -> dict[str, list[str]]:
    """label -> override of each value."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return {_label(override.get_value_element_as_str()): [override.input_line]}
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line}: an interval needs a sweeper that draws from it, e.g. sweep=optuna")
    return {_label(value): [f"{key}={value}"] for value in override.sweep_string_iterator()}


def _label(value: str) -> str:
    return value.strip("'\"")


def done(cfg: DictConfig, folder: Path, listed: dict[str, str]) -> bool:
    """Whether the folder holds all of the job with this configuration. listed: fingerprints of images, asked for once."""
    if cfg.force:
        return False
    try:
        said = json.loads((folder / "summary.json").read_text("utf-8"))
        kept = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    except (OSError, ValueError):
        return False
    asked = to_keep(cfg)
    differing = {key for key in {*kept, *asked} if kept.get(key) != asked.get(key)} - {"name", "force"}
    if differing or said["n_missing"] or said["n_skipped"] or said["protocol"]["stopped"]:  # skipped: perhaps repaired since
        return False
    choices = dict(cfg.hydra.runtime.choices)
    source = str([choices["dataset"], *(asked[key] for key in ("dataset", "images", "limit"))])
    if source not in listed:
        listed[source] = fingerprint(images(cfg, choices))
    return listed[source] == said["protocol"].get("images")


def sweep_name(arguments: list[str]) -> str:
    """A sweep's folder by its command: what it varies, then what it fixes, so that the same command goes on in it."""
    typed = [a for a in arguments if not a.startswith(("-", "hydra")) and "=" in a]
    overrides = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(typed)}
    varied, fixed = [], {}
    if "sweep" in overrides:
        varied.append(_label(overrides.pop("sweep").get_value_element_as_str()))
        overrides = {key: override for key, override in overrides.items() if key not in _replaceable(varied[0])}
    for key, override in overrides.items():
        if override.is_sweep_override():
            varied.append(key)
        elif key not in HOW:
            fixed[key] = _label(override.get_value_element_as_str())
    return ",".join(["_x_".join(varied) or "run", *([folder_name(fixed)] if fixed else [])])


def _replaceable(preset: str) -> set[str]:
    """The keys that configs/sweep/<preset>.yaml varies."""
    if preset not in config.options("sweep"):
        return set()  # Hydra says so in a moment
    sweeper = OmegaConf.load(config.CONFIGS / "sweep" / f"{preset}.yaml").hydra.sweeper
    cases = (o for named in (sweeper.get("cases") or {}).values() for overrides in named.values() for o in overrides)
    return {*(sweeper.get("params") or {}), *(o.partition("=")[0] for o in cases)}


@contextmanager
def gpu(folder: Path, count: int) -> Iterator[None]:
    """One of `count` GPUs for a job that has others beside it (cluster=joblib): the first that none of them has."""
    with ExitStack() as held:
        for index in range(count if os.environ.get("MPX_JOBS", "1") != "1" else 0):
            try:
                held.enter_context(lock(folder / f".gpu-{index}", "one job"))
            except ValueError:  # another has it
                continue
            os.environ["MPX_GPU"] = str(index)
            held.callback(os.environ.pop, "MPX_GPU", None)
            break
        yield


def register() -> None:
    """Puts Jobs in the place of Hydra's basic sweeper. Not at import: Hydra scans all its plugins."""
    where = "hydra_plugins.mpx.Jobs"  # Hydra takes plugins from there only
    Plugins.instance().class_name_to_class[where] = Jobs
    ConfigStore.instance().store("basic", {"_target_": where, "params": None, "cases": None}, "hydra/sweeper")
