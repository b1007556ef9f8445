"""Evaluate the masks of a finished run: python scripts/evaluate.py run=outputs/a metric=[deletion,insertion] [key=value ...]

The run's command is continued with these metrics besides its own: no image is explained again, and no metric that it already
has is computed again. Metrics, their options (metrics.deletion.step=448), other_perturbations=, device= and batch_size= may
be given.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from mpx.cli.arguments import answer_help
from mpx.cli.main import main
from mpx.config_schema import options
from mpx.data.reading import regular_file
from mpx.errors import first_line

# all rows are evaluated here; of a sweep, this job
REPLACED_KEYS = ("share=", "force=", "sweep=", "cluster=", "hydra.run.dir=")


def command(run: Path, arguments: list[str]) -> list[str]:
    """Return the overrides that continue the run with these arguments. ValueError where the run's files are damaged."""
    replaced: tuple[str, ...] = REPLACED_KEYS
    metrics = next((a.removeprefix("metric=").strip("[]").split(",") for a in arguments if a.startswith("metric=")), None)
    if metrics:
        present = _read(run, "config.yaml", dict).get("metrics") or {}
        present = [name for name in present if name in options("metric")]  # others come by an override like +metrics.mine...
        names = dict.fromkeys([*present, *map(str.strip, metrics)])
        arguments = [f"metric=[{','.join(names)}]", *(a for a in arguments if not a.startswith("metric="))]
        replaced += ("metric=",)
    overrides = map(str, _read(run, "overrides.yaml", list))
    folder = str(run).replace("\\", "\\\\").replace("'", "\\'")  # quoted: a job's folder may be explainer=rise
    return [*(o for o in overrides if not o.startswith(replaced)), *arguments, f"hydra.run.dir='{folder}'"]


def _read(run: Path, file: str, kind: type) -> Any:
    """Return what a YAML file of the run's configuration holds."""
    path = run / ".hydra" / file
    try:
        content = yaml.safe_load(regular_file(path).read_text("utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"it holds no {kind.__name__}")
        return content
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} is missing or damaged ({first_line(error)}): run the run's own command") from error


if __name__ == "__main__":
    answer_help(__doc__)
    run = next((Path(a.removeprefix("run=")) for a in sys.argv[1:] if a.startswith("run=")), None)
    if run is None or not (run / ".hydra" / "overrides.yaml").is_file():
        sys.exit(f"mpx: run={run} is not the folder of a run, which holds .hydra/overrides.yaml: give run=outputs/<name>")
    try:
        sys.argv[1:] = command(run, [a for a in sys.argv[1:] if not a.startswith("run=")])
    except ValueError as error:
        sys.exit(f"mpx: {error}")
    main()
