"""Finished runs beside each other: python scripts/compare.py outputs/a outputs/b ... [out=folder] [metrics=deletion,area]

Prints methods x metrics (those named, or all) with intervals and a paired test against the first, and writes table.md,
table.csv, table.tex and cost.png, every metric against what it cost, into `out`.

Of a sweep, python scripts/compare.py outputs/sweeps/a: axes x metrics, grid.png, plots.png and pareto.png, into its folder.
"""

import re
import sys
from pathlib import Path

from mpx.report import compare, sweep

if __name__ == "__main__":
    # a sweep's jobs are called explainer=rise, and sweeps mask_size,lr=0.2
    given = {a for a in sys.argv[1:] if re.match(r"\w+=", a) and "/" not in a.partition("=")[0] and not Path(a).is_dir()}
    folders = [a for a in sys.argv[1:] if a not in given]
    options = {"out": None, "metrics": ""} | dict(a.split("=", 1) for a in given)
    out, wanted = options.pop("out"), options.pop("metrics")
    wanted = wanted.split(",") if wanted else ()
    of_sweep = len(folders) == 1 and not (Path(folders[0]) / "results.csv").exists()
    if options:
        sys.exit(f"{', '.join(options)}: the options are out= and metrics=")
    try:
        if of_sweep:
            print(sweep.finish(folders[0], out, wanted))
            print(f"written to {out or folders[0]}/: table.md, .csv and .tex, grid.png, plots.png, pareto.png")
        else:
            print(compare.write(folders, Path(out := out or "outputs/compare"), wanted))
            print(f"written to {out}/: table.md, table.csv, table.tex, cost.png")
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
