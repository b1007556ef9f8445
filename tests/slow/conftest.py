"""Every test in this folder is slow: `pytest` leaves it out, `pytest -m slow` runs it."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
