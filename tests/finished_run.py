"""The folder of a finished run, of a synthetic Explanation; names that must stay text."""

from mpx.runs import files, store, summaries, tables

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"'&amp;<!--",
    "Größe 日本 \u202e\u2028",
    "=1+1",
    "![x](http://nowhere.invalid/x.png) [y](javascript:z) *a* `b` | c",
]


def save(folder, e, game="deletion", skipped=(), **more):
    """A finished run's folder."""
    for i in range(len(e.names)):
        store.save_row(folder, e, i, **more)
    rows = tables.table_rows(e)
    tables.write_csv(folder / "results.csv", rows, tables.result_columns(rows))
    tables.write_skipped(folder / "skipped.csv", list(skipped))
    files.write_json(folder / "summary.json", summaries.summarise_rows(rows, 0, 0, {"command": "mpx a=1", "game": game}))
    return folder
