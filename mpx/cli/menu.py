"""The menu in configs/ as text: `--help`, and the table of published methods (python -m mpx.cli.menu). Imports no torch."""

import re
from collections.abc import Iterable, Iterator

from omegaconf import DictConfig

from mpx.config_schema import CONFIGS, compose, groups, options

COLUMNS = ("experiment", "paper", "game", "operator", "mask", "score", "regularizers", "optimizer × steps", "passes")
PASSES = {"deletion": 1, "preservation": 1, "dual": 2, "product": 4}  # per iteration: pictures that the network sees
USAGE = """\
mpx: find the pixels that a network's decision rests on

  mpx [key=value ...]    explain images, e.g. images=photo.jpg perturbation=blur_median lambda_tv=0.2
  mpx -m key=a,b ...     one run per combination of values
  mpx versus=gradcam ... the command's method beside others, explainers or experiments: versus=[gradcam,quick]
  mpx --cfg job          print the whole configuration;  --version prints mpx's version
  eval "$(mpx -sc install=bash)" turns tab completion on

Groups (group=option; an option's own keys: group.key=value)"""


def help_text() -> str:
    """Return the help: all groups with their options, all root keys with default and meaning, all published methods."""
    lines = [USAGE]
    lines += [f"  {group:<13} {', '.join(options(group))}" for group in groups()]
    lines += ["", "Keys"]
    lines += [f"  {f'{key}={default}':<24} {meaning}" for key, default, meaning in root_keys()]
    lines += ["", "Published methods (experiment=...; a method's settings: mpx --cfg job experiment=NAME)"]
    lines += [f"  {name:<24} {paper(name)}" for name in options("experiment")]
    return "\n".join([*lines, "", f"Every key with its reason and source: {CONFIGS / 'config.yaml'}"])


def root_keys() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of each root key, from the comments in the YAML files that define them."""
    owners = [path for group in ("regularizer", "augment") for path in sorted((CONFIGS / group).glob("*.yaml"))]
    for source in [CONFIGS / "config.yaml", *owners]:
        yield from re.findall(r"^(\w+): (\S+|\".*?\") +# (.*)$", source.read_text("utf-8"), re.M)


def methods() -> Iterator[dict[str, str]]:
    """Yield the table's row of each published method, with COLUMNS as its keys."""
    for name in options("experiment"):
        cfg = compose(f"experiment={name}", choices=True)
        choices = {str(group): choice for group, choice in cfg.hydra.runtime.choices.items()}
        yield {
            "experiment": name,
            "paper": paper(name),
            "game": cfg.game,
            "operator": ", ".join([choices["perturbation"], *_augmentations(cfg)]),
            "mask": choices["mask"] + (f" {cfg.mask_size}" if "mask_size" in cfg.mask and cfg.mask_size else ""),
            "score": choices["score"] + (" on a path" if _path_points(cfg) > 1 else ""),
            "regularizers": ", ".join(_regularizers(cfg)) or "none",
            "optimizer × steps": _optimizer(cfg, choices),
            "passes": _passes(cfg, choices),
        }


def paper(experiment: str) -> str:
    """Return the paper that the YAML file names (`# Paper: ...`), or that of the experiment it starts from."""
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text("utf-8")
    named = re.search(r"^# Paper: (.+)$", text, re.M)
    if named:
        return named[1]
    base = re.search(r"^  - (\w+)$", text, re.M)
    if base is None:
        raise ValueError(f"configs/experiment/{experiment}.yaml has no line '# Paper: ...'")
    return paper(base[1])


def table(rows: Iterable[dict[str, str]]) -> str:
    """Return rows of `methods` as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[f"`{row['experiment']}`", *list(row.values())[1:]] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _augmentations(cfg: DictConfig) -> list[str]:
    places = [cfg.get(place) or {} for place in ("image_augmentations", "input_augmentations")]
    return [name for augmentations in places for name in augmentations if cfg[name]]


def _regularizers(cfg: DictConfig) -> list[str]:
    weights = [f"{name} {cfg[f'lambda_{name}']:g}" for name in cfg.get("regularizers") or {}]
    return weights if cfg.area is None or "area" in (cfg.get("regularizers") or {}) else [*weights, f"area = {cfg.area}"]


def _optimizer(cfg: DictConfig, choices: dict[str, str | None]) -> str:
    rate = f" {cfg.lr:g}" if "lr" in cfg.optimizer else ""
    scheduler = f" {choices['scheduler']}" if choices["scheduler"] else ""
    return f"{choices['optimizer']}{rate}{scheduler} × {cfg.steps}{_or_fewer(choices)}"


def _passes(cfg: DictConfig, choices: dict[str, str | None]) -> str:
    passes = cfg.steps * cfg.samples * PASSES[cfg.game] * _path_points(cfg)
    backtracking = " + backtracking" if choices["optimizer"] == "line_search" else ""
    return f"{passes}{_or_fewer(choices)}{backtracking}"


def _or_fewer(choices: dict[str, str | None]) -> str:
    return " or fewer" if choices["stop"] else ""


def _path_points(cfg: DictConfig) -> int:
    """Return at how many points of a path each step averages the score (gradient=integrated)."""
    return int((cfg.get("gradient") or {}).get("ig_steps", 1))


if __name__ == "__main__":
    print(table(methods()))
