"""Export the masks of a run: python scripts/export.py run=outputs/a [format=coco,png] [threshold=0.5] [out=folder]

Writes the evidence of every row in pixels of the original photos. coco: labels.json, COCO's format with run lengths of the
pixels whose evidence is at least threshold=, which FiftyOne loads as a COCODetectionDataset. png: png/<row>.png, the
evidence from 0 (black) to 1 (white). out= is <run>/export by default.
"""

import sys
from pathlib import Path

from mpx.cli.arguments import answer_help
from mpx.config_errors import run_error_sentence

OPTIONS = {"run": "", "format": "coco,png", "threshold": "0.5", "out": ""}


def main(arguments: list[str]) -> None:
    from mpx import load
    from mpx.config_plan import stored_parts
    from mpx.report.export import FORMATS, write_export
    from mpx.runs.row_source import preprocessing
    from mpx.runs.tables import parse_number, read_csv

    given = dict(argument.partition("=")[::2] for argument in arguments)
    options = OPTIONS | given
    formats, threshold = options["format"].split(","), parse_number(options["threshold"])
    if unknown := given.keys() - OPTIONS.keys() or set(formats) - set(FORMATS):
        sys.exit(f"{', '.join(sorted(unknown))}: the options are {', '.join(OPTIONS)}, the formats {', '.join(FORMATS)}")
    if not 0 < threshold <= 1:
        sys.exit(f"threshold={options['threshold']} must be above 0 and at most 1")
    try:
        folder = load(options["run"]).folder
        classifier = stored_parts(folder)[1]
        out = Path(options["out"]).expanduser() if options["out"] else folder / "export"
        lines = read_csv(folder / "results.csv")
        files = write_export(lines, folder, out, preprocessing(classifier), classifier.channels, formats, threshold)
    except Exception as error:
        if sentence := run_error_sentence(error, {}):
            sys.exit(sentence)
        raise
    print(f"written to {out}/: {len(lines)} rows in {len(files)} files")


if __name__ == "__main__":
    answer_help(__doc__)
    main(sys.argv[1:])
