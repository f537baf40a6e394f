"""`fraudstream verify` on real servers: says so when all is well, and finds what somebody changed."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.cassandra.session import connected
from app.ops.verification.totals import COUNTS
from app.settings import Settings
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

CARDS = [f"c{number}" for number in range(8)]


def some(run: str) -> list[Send]:
    """A few transactions of each card, the first of them twice."""
    sends = [
        Send(tx_bytes(f"{run}-{card}-{n}", card=card, at=n * 60_000), card.encode())
        for n in range(5)
        for card in CARDS
    ]
    return [*sends, sends[0]]


def verified(deployment: Deployment, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and standard error of `fraudstream verify --json`."""
    done = deployment.run("verify", "--json", *arguments)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_verify(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        deployment.send(some("first"))
        code, report, _ = verified(deployment)
        assert code == 0, report
    assert tuple(report)[: len(COUNTS)] == COUNTS
    assert {name: report[name] for name in COUNTS if report[name]} == {
        "read": 41, "scored": 40, "duplicate": 1,
    }  # fmt: skip
    assert report["rows"] == report["scores_recomputed"] == 40
    found_pending(deployment)
    found_changes(deployment)


def found_pending(deployment: Deployment) -> None:
    """Nobody works any more: what comes now is pending, and nothing else is wrong."""
    deployment.send(some("second"))
    code, report, errors = verified(deployment, "--timeout", "1")
    assert code == 6
    assert (report["pending"], report["missing"], report["differing"]) == (41, 0, 0)
    assert errors.startswith("fraudstream: 41 pending, 0 missing, 0 differing of 82: is a worker")
    assert len(errors.splitlines()) == 1


def found_changes(deployment: Deployment) -> None:
    """Somebody edits the table: each edit is found, with both values."""
    with connected(deployment.settings) as session:
        table = f"{deployment.settings.keyspace}.predictions"
        key = "card_id = %s AND month = %s AND event_time = %s AND transaction_id = %s"

        def where(card: str, number: int) -> tuple[Any, ...]:
            moment = datetime.fromtimestamp((T0 + number * 60_000) / 1000, UTC)
            return card, f"{moment:%Y-%m}", moment, f"tx-first-{card}-{number}"

        session.execute(f"UPDATE {table} SET score = 0.5 WHERE {key}", where("c1", 1))
        session.execute(f"DELETE FROM {table} WHERE {key}", where("c2", 2))
        columns = "card_id, month, event_time, transaction_id, source_topic, source_partition"
        session.execute(
            f"INSERT INTO {table} ({columns}, source_offset) VALUES (%s, %s, %s, %s, 'none', 0, 0)",
            where("stray", 0),
        )
    code, report, _ = verified(deployment, "--timeout", "0")
    assert code == 6
    assert (report["pending"], report["missing"], report["differing"]) == (41, 1, 2)
    done = deployment.run("verify", "--timeout", "0", "--examples", "20")
    assert done.returncode == 6
    lines = done.stdout.splitlines()
    assert any("card c1: score in cassandra: stored 0.5, recomputed 0." in line for line in lines)
    assert any("card c2: row in cassandra: stored nothing" in line for line in lines)
    assert any(line.startswith("none: source in cassandra: stored 'none/0/0'") for line in lines)
