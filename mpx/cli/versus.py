"""versus=[gradcam,fong2017]: the command's own method beside others, as a sweep with one axis of cases."""

from collections.abc import Iterable
from pathlib import Path

from mpx.config_schema import options
from mpx.errors import near

KEY = "versus="
GROUPS = ("explainer", "experiment")  # of the methods that it may name
SWEEPS = ("sweep=", "hydra.sweeper.")


def as_sweep(arguments: list[str], folders: Iterable[Path]) -> list[str]:
    """Return arguments for Hydra: where one is versus=, those of a sweep. folders: the user's own, of further options.

    The first job is the command's own method. The others have all arguments but what chooses that method: an explainer keeps
    its experiment=, whose perturbation evaluates the maps of both. Raises ValueError for a method that there is not.
    """
    given = [argument for argument in arguments if argument.startswith(KEY)]
    if given in ([], [f"{KEY}null"]):
        return [argument for argument in arguments if argument not in given]
    if len(given) > 1 or any(argument.startswith(SWEEPS) for argument in arguments):
        raise ValueError(f"{' '.join(given)}: give one, as a list, e.g. versus=[gradcam,quick], and no sweep= beside it")
    own = [argument for argument in arguments if argument.startswith(tuple(f"{group}=" for group in GROUPS))]
    experiment = [argument for argument in own if argument.startswith("experiment=")]
    cases = {own[-1].partition("=")[2] if own else "default": own}
    for name in given[0].removeprefix(KEY).strip("[]'\"").split(","):
        group = _group(name := name.strip(), [*folders])
        if name in cases:
            raise ValueError(f"{given[0]}: {name} is there twice, or the command's own method: leave it out")
        cases[name] = [*(experiment if group == "explainer" else []), f"{group}={name}"]
    text = ",".join(f"{label}:[{','.join(map(_quoted, overrides))}]" for label, overrides in cases.items())
    others = [argument for argument in arguments if argument not in [*given, *own]]
    return [*others, "hydra.mode=MULTIRUN", f"hydra.sweeper.cases={{method:{{{text}}}}}"]


def _group(name: str, folders: list[Path]) -> str:
    """Return the group of a method. An explainer precedes an experiment of its name."""
    own = [path for folder in folders for path in folder.glob("*/*.yaml")]
    names = {group: [*options(group), *(path.stem for path in own if path.parent.name == group)] for group in GROUPS}
    for group in GROUPS:
        if name in names[group]:
            return group
    known = [name for group in GROUPS for name in names[group]]
    raise ValueError(f"versus={name}: no explainer or experiment is called so{near(name, known)} (--help lists all)")


def _quoted(override: str) -> str:
    return f'"{override}"'
