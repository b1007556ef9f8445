"""report.html: a run, or the runs of a sweep side by side, as one page that opens from the disk without a server or network.

The page (mpx/report/page/) has the numbers of all rows first, in blocks of JSON, then a block with pictures and curves for
each row, in the order of the rows: the first are visible before the last are read. A block of pictures is parsed when they
are shown. The page is written row by row, so that 50,000 take no more memory than a few; they open within a second. It
fetches nothing, and its Content-Security-Policy forbids it. Rows without pictures have their numbers alone.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mpx.pictures import colours
from mpx.report.html_data import JobData, aspect_ratio, load_arrays, match_rows, page_rows, picture_blocks, read_job
from mpx.report.pairs import KEYS, pairs_of_lines, write_pair
from mpx.report.wording import called, heading, network_name
from mpx.runs.files import open_atomically
from mpx.runs.tables import FILE_COLUMNS
from mpx.verdicts import MEANINGS

# of the overlay, which page.js draws too
DRAWN = ("ORANGE", "LIFT", "OPACITY", "STEEPNESS", "SHADE", "LIGHT", "HALF", "LEAST_SIDE")
PAGE = Path(__file__).parent / "page"


def write_report(folder: str | Path) -> Path:
    """Write `folder`/report.html of the run there, and pairs/*.png of paired rows with pictures; return the page's path.

    ValueError where the folder has no rows.
    """
    folder = Path(folder)
    job = read_job(folder, folder.resolve().name)
    if job.fault:
        raise ValueError(f"{str(folder)!r} is not the folder of a run: {job.fault}")
    for masks in pairs_of_lines(list(job.lines)) if job.paired else []:
        first, second = (load_arrays(job.masks.get(Path(mask).stem), KEYS) for mask in masks)
        if first and second:
            write_pair(folder, first, second, Path(masks[0]).stem)
    return _write_page(folder, job.name, job.summary.get("protocol", {}).get("command", ""), [job])


def write_sweep_report(folder: str | Path, jobs: Sequence[str | Path]) -> Path:
    """Write `folder`/report.html of a sweep, with its jobs (folders in or below `folder`) in this order; return its path."""
    folder = Path(folder)
    names = [Path(job).name if Path(job).is_absolute() else str(job) for job in jobs]
    return _write_page(folder, folder.resolve().name, "", [read_job(folder / job, name) for job, name in zip(jobs, names)])


def _write_page(folder: Path, title: str, command: str, jobs: list[JobData]) -> Path:
    all_columns = dict.fromkeys(column for job in jobs for column in job.lines.first)
    columns = [c for c in all_columns if c not in ("image", "class", "verdict", "mask", *FILE_COLUMNS)]
    rows = match_rows(jobs)
    # the fully perturbed image, which is 0 of value_normalised, may differ between the jobs of a sweep
    references = {json.dumps(job.summary["protocol"].get("reference"), sort_keys=True) for job in jobs if job.summary}
    headlines = [job.headline("value_normalised" if len(references) < 2 else "value_after") for job in jobs]
    names = list(dict.fromkeys(name for headline in headlines for name in headline))
    style = (PAGE / "page.css").read_text("utf-8")
    script = (PAGE / "page.js").read_text("utf-8")
    values: dict[str, Any] = {
        "title": title,
        "heading": heading(
            max((len(job.lines) for job in jobs), default=0),
            {network_name(folder / job.name if len(jobs) > 1 else folder) for job in jobs if len(job.lines)},
            len(jobs),
            jobs[0].game if jobs[0].is_learnt else "",
            jobs[0].learnt_with,
        ),
        "command": command,
        "names": names,
        "parts": [name for name in names if any(name.startswith(f"{other}_") for other in names)],  # of metrics
        "words": {name: called(name, jobs[0].quantity) for name in names},
        "jobs": [{"name": job.name, "fault": job.fault, "numbers": texts} for job, texts in zip(jobs, headlines)],
        "learnt": any(job.is_learnt for job in jobs),
        "skipped": [(image, why, job.name if len(jobs) > 1 else "") for job in jobs for image, why in job.skipped],
        "policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_policy_hash(style)}; script-src {_policy_hash(script)}",
        "style": Markup(style),
        "script": Markup(script),
        "page": {
            "jobs": [job.page_entry() for job in jobs],
            "columns": columns,
            "drawn": {name: vars(colours)[name] for name in DRAWN},
            "aspect": aspect_ratio(jobs),
            "words": {name: called(name, jobs[0].quantity) for name in columns},
            "paired": any(job.paired for job in jobs),
            "meanings": MEANINGS,
        },
        "rows": page_rows(rows, jobs, columns),
        "blocks": picture_blocks(rows, jobs),
    }
    path = folder / "report.html"
    with open_atomically(path) as file:
        for part in _environment().get_template("page.html.j2").generate(values):
            file.write(part.encode("utf-8", "backslashreplace"))
    return path


def _environment() -> Environment:
    loader = PackageLoader("mpx.report", "page")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.policies["json.dumps_kwargs"] = {}  # does not sort the curves' terms
    return environment


def _policy_hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
