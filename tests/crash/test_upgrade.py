"""A short rolling upgrade from the previous release, and back; `make upgrade` runs a long one."""

from pathlib import Path

import pytest

from app.settings import Settings
from tests.crash.upgrade import BEFORE, installed, roll


@pytest.mark.crash
@pytest.mark.timeout(1_200)
def test_two_workers_are_upgraded_one_at_a_time_and_go_back(
    settings: Settings, tmp_path: Path
) -> None:
    before = installed(tmp_path, BEFORE)
    if before is None:
        pytest.skip(f"git has no commit {BEFORE} here: `git fetch --unshallow` gets it")
    present = installed(tmp_path, None)
    assert present is not None
    ours = {"session_timeout": 6_000, "label_wait": 2_000, "standby_replicas": 1}
    silences = roll(
        settings.model_copy(update=ours), before, present, tmp_path / "workers",
        rate=100, seconds=2, say=print,
    )  # fmt: skip
    assert silences.keys() == set(range(settings.partitions))
    print(f"longest silence {max(silences.values()):.1f} s")
