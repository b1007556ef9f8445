"""Every test in this folder is slow: `pytest` leaves it out, `pytest -m slow` runs it."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser):
    parser.addoption("--table", metavar="FILE", help="of test_architectures.py: write family, architecture and result there")


def pytest_terminal_summary(terminalreporter, config):
    """Write the table; the properties of tests come from all worker processes."""
    if not config.getoption("--table"):
        return
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    found = [properties for report in reports if "architecture" in (properties := dict(report.user_properties))]
    rows = sorted(f"| {one['architecture']} | {one.get('result', 'failed')} |" for one in found)
    lines = ["| family | architecture | result |", "|---|---|---|", *rows, ""]
    Path(config.getoption("--table")).write_text("\n".join(lines))
