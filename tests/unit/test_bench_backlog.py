"""A run in which a worker was restarted is refused, with what the worker said."""

from pathlib import Path

import pytest

from app.errors import UnavailableError
from app.tools.bench.backlog import refuse_restarts
from app.tools.processes import WorkerProcess
from app.tools.supervisor import Workers


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
