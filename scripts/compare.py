"""Finished runs beside each other: python scripts/compare.py outputs/a outputs/b ... [out=outputs/compare]

Prints methods x metrics with intervals and a paired test against the first, and writes table.md, table.csv, table.tex and
cost.png, every metric against what it cost, into `out`.
"""

import sys
from pathlib import Path

from mpx.report import compare

if __name__ == "__main__":
    folders = [a for a in sys.argv[1:] if not a.startswith("out=")]
    out = next((a.removeprefix("out=") for a in sys.argv[1:] if a.startswith("out=")), "outputs/compare")
    try:
        print(compare.write(folders, Path(out)))
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    print(f"written to {out}/: table.md, table.csv, table.tex, cost.png")
