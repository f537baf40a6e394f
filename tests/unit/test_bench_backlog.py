"""A deployment of a measurement: what its workers are told, and what is refused of them."""

from pathlib import Path

import pytest

from app.errors import UnavailableError
from app.lab.bench.backlog import refuse_restarts
from app.lab.bench.deployment import environment
from app.lab.supervisor import Workers
from app.lab.worker_processes import WorkerProcess
from app.settings import Settings, load_settings


def test_a_run_with_a_restart_is_refused(tmp_path: Path) -> None:
    worker = WorkerProcess(1, tmp_path)
    workers = Workers([worker])
    refuse_restarts(workers)
    workers.restarts = 1
    worker.log.write_text("noise\nfraudstream: worker stopped in x/1: what it met\nmore noise\n")
    with pytest.raises(UnavailableError, match="restarted 1 times.*what it met"):
        refuse_restarts(workers)
    worker.log.write_text("")
    with pytest.raises(UnavailableError, match="did not say why"):
        refuse_restarts(workers)


def test_a_worker_has_the_settings_of_its_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "features": "handbook,engineered", "windows": "1h,30d", "label_delay": "2d", "keyspace": "k",
        "threshold": None,
    }  # fmt: skip
    settings = load_settings(given)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    again = load_settings()
    for name in given:
        assert getattr(again, name) == getattr(settings, name), name
    assert again.features != Settings.model_fields["features"].default
