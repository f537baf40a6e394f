"""Fixtures of the tests on real servers, and their bound."""

from pathlib import Path

import pytest

from tests.secured_servers import secured

__all__ = ["secured"]

#: For each test, against hangs only: they take a minute at most on an idle machine.
_SECONDS = 1_200
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the tests of this folder."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(_SECONDS))
