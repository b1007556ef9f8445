"""Compare finished runs: python scripts/compare.py outputs/a outputs/b ... [out=folder] [metrics=deletion,area]

Prints a table of runs and metrics (all, or those of metrics=) with intervals and a paired test against the first run. Writes
table.md, table.csv, table.tex, cost.png, each metric against the cost of a row, and report.html, one page with the pictures
of all runs, to out= (default outputs/compare).

For a sweep: python scripts/compare.py outputs/sweeps/a. Writes table.md, .csv and .tex, consensus.csv and pictures (.png)
to out= (default: the sweep's folder).
"""

import re
import sys
from pathlib import Path

from mpx.cli.arguments import answer_help
from mpx.report import compare, sweep


def is_option(argument: str) -> bool:
    """Return whether an argument is key=value; folders of sweeps may have a "=" in their names, too."""
    return bool(re.match(r"\w+=", argument)) and "/" not in argument.partition("=")[0] and not Path(argument).is_dir()


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if is_option(argument))
    folders = [argument for argument in arguments if not is_option(argument)]
    if unknown := options.keys() - {"out", "metrics"}:
        sys.exit(f"mpx: {', '.join(sorted(unknown))}: the options are out= and metrics=")
    metrics = options["metrics"].split(",") if options.get("metrics") else ()
    out = options.get("out")
    try:
        if len(folders) == 1 and not (Path(folders[0]) / "results.csv").exists():
            print(sweep.write_sweep_results(folders[0], out, metrics))
            print(f"written to {out or folders[0]}/: table.md, .csv and .tex, consensus.csv, pictures (.png)")
        else:
            out = out or "outputs/compare"
            print(compare.write_comparison(folders, Path(out), metrics))
            print(f"written to {out}/: table.md, table.csv, table.tex, cost.png, report.html")
    except (ValueError, OSError) as error:
        sys.exit(f"mpx: {error}")


if __name__ == "__main__":
    answer_help(__doc__)
    main(sys.argv[1:])
