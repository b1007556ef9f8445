"""The README's figures, from the bundled photos with the default configuration: python scripts/figure.py [folder]"""

import sys
from pathlib import Path

from mpx import explain
from mpx.data.datasets import sample
from mpx.models.zoo import efficientnet_lite0
from mpx.report import render, results


def main(folder: Path) -> None:
    e = explain(efficientnet_lite0(), [item.path for item in sample()], frames=8)
    render.sheet(e, range(len(e))).save(folder / "sheet.jpg", quality=90)
    results.write(folder / "espresso.gif", render.animation(e, e.classes.index("espresso")))
    print(e)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "readme"))
