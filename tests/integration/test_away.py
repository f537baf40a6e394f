"""Cassandra away for a while under load; `python -m tests.crash.away` does so for ten at full load."""

from pathlib import Path

import pytest

from app.settings import Settings
from tests.cassandra_outage import go_away
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

#: A rate that a machine with eight times the load keeps up with: it has to catch up, too.
AWAY_SECONDS, RATE = 25.0, 120.0


def test_a_while_without_cassandra(stack: Servers, settings: Settings, tmp_path: Path) -> None:
    local = stack.require_local()
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        away = go_away(local, deployment, fleet, seconds=AWAY_SECONDS, rate=RATE, say=print)
    print(away)
    assert away.seconds >= AWAY_SECONDS
    assert away.waiting > AWAY_SECONDS * RATE / 2
