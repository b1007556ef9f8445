"""The menu in configs/ as text: `--help`, and the table of published methods (python -m mpx.cli.menu)."""

import re
from collections.abc import Iterator

from omegaconf import OmegaConf

from mpx import config
from mpx.learning.method import GAMES

COLUMNS = ("experiment", "paper", "game", "operator", "mask", "score", "regularizers", "optimizer × steps", "passes")


def help_text() -> str:
    """Every group with its options, every root key with its default and meaning, every published method with its paper."""
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
    lines += ["", "Published methods (experiment=...)"]
    for row in methods():
        parts = f"{row['game']}, {row['operator']}, {row['mask']}, {row['score']}, {row['regularizers']}"
        lines.append(f"  {row['experiment']:<24} {row['paper']}")
        lines.append(f"  {'':<24} {parts}; {row['optimizer × steps']}; passes: {row['passes']}")
    return "\n".join(lines + ["", f"Every key with its reason and source: {config.CONFIGS / 'config.yaml'}"])


def methods() -> Iterator[dict[str, str]]:
    """COLUMNS of every preset."""
    for name in config.options("experiment"):
        cfg = config.compose(f"experiment={name}", choices=True)
        chosen = OmegaConf.to_container(cfg.hydra.runtime.choices)
        with_cells = cfg.mask_size if "mask_size" in cfg.mask else None
        path = (cfg.get("gradient") or {}).get("ig_steps", 1)
        passes = cfg.steps * cfg.samples * len(GAMES[cfg.game]) * path
        terms = [f"{k} {cfg[f'lambda_{k}']:g}" for k in cfg.get("regularizers") or {}]
        area = [] if cfg.area is None else [f"area asked {cfg.area}"]
        augments = [k for place in ("image_augmentations", "input_augmentations") for k in cfg.get(place) or {} if cfg[k]]
        scheduler = f" {chosen['scheduler']}" if chosen["scheduler"] else ""
        fewer = " or fewer" if chosen["stop"] else ""
        yield dict(zip(COLUMNS, (
            name,
            paper(name),
            cfg.game,
            ", ".join([chosen["perturbation"], *augments]),
            chosen["mask"] + (f" {with_cells}" if with_cells else ""),
            chosen["score"] + (" on a path" if path > 1 else ""),
            ", ".join(terms if "area" in terms else terms + area) or "none",
            f"{chosen['optimizer']}{f' {cfg.lr:g}' if 'lr' in cfg.optimizer else ''}{scheduler} × {cfg.steps}{fewer}",
            f"{passes}{fewer}" + (" + tries" if chosen["optimizer"] == "line_search" else ""),
        )))  # fmt: skip


def paper(name: str) -> str:
    """What the preset's line `# Paper: ...` says, or that of the preset it starts from."""
    text = (config.CONFIGS / "experiment" / f"{name}.yaml").read_text()
    found = re.search(r"^# Paper: (.+)$", text, re.M)
    if found:
        return found[1]
    return paper(re.search(r"^  - (\w+)$", text, re.M)[1])


def table() -> str:
    """The presets as Markdown, as the README has them."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *([f"`{r['experiment']}`", *list(r.values())[1:]] for r in methods())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table())
