"""Finished runs beside each other: python scripts/compare.py outputs/a outputs/b ... [out=folder] [metrics=deletion,area]

Prints methods x metrics (those named, or all) with intervals and a paired test against the first, and writes table.md,
table.csv, table.tex and cost.png, every metric against what it cost, into `out`.
"""

import sys
from pathlib import Path

from mpx.report import compare

if __name__ == "__main__":
    folders = [a for a in sys.argv[1:] if "=" not in a or Path(a).is_dir()]  # a sweep's are called 0_explainer=rise
    given = (a.split("=", 1) for a in sys.argv[1:] if a not in folders)
    options = {"out": "outputs/compare", "metrics": ""} | dict(given)
    out, wanted = options.pop("out"), options.pop("metrics")
    if options:
        sys.exit(f"{', '.join(options)}: the options are out= and metrics=")
    try:
        print(compare.write(folders, Path(out), wanted.split(",") if wanted else ()))
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    print(f"written to {out}/: table.md, table.csv, table.tex, cost.png")
