"""Fixtures of every test directory."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.real_servers import keyspaces, stack
from tests.schema_registry import registry
from tests.seed import SEED
from tests.worker_settings import no_settings, session, settings

__all__ = ["keyspaces", "no_settings", "registry", "seed", "session", "settings", "stack"]

# how long an example takes is the machine's affair: no test fails by a clock
hypothesis_settings.register_profile(
    "no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("no clock")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """With `--dist loadfile`, files that use the secured servers go to one process: the others start none."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    files = (Path(__file__).parent / "integration").glob("test_*.py")
    secured = {file.name for file in files if "secured: Secured" in file.read_text()}

    class _Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "secured" if Path(file).name in secured else file

    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def seed() -> int:
    """The run's seed (`FRAUDSTREAM_TEST_SEED`)."""
    return SEED


def pytest_report_header() -> str:
    """With which seed this run draws."""
    return f"FRAUDSTREAM_TEST_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How to draw the same again, where it is needed: below the failures."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"drawn with FRAUDSTREAM_TEST_SEED={SEED}")
