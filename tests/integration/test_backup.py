"""What only Cassandra has, saved and brought back into an empty keyspace, with times of writing and time to live."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import app.cassandra.backup_tables as saving
from app.cassandra.backup_tables import ONLY_HERE
from app.cassandra.erase_rows import Erasure, hash_of, record_erasure
from app.cassandra.schema_migration import migrate
from app.cassandra.session import connected
from app.cli.command_errors import run
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

#: By table: statements as people's commands write them, with times of their own.
STATEMENTS = (
    "INSERT INTO {k}.models (name, version, hash, sha256, bytes, registered_at, registered_by) "
    "VALUES ('m', 1, 'ab', 'cd', 600000, '2026-11-30T10:00:00.123Z', 'ana') USING TIMESTAMP 1700000000000001",
    "INSERT INTO {k}.alert_snoozes (kind, id, until, snoozed_by, note) VALUES ('card', 'c1', "
    "'2026-12-30T10:00:00Z', 'ana', 'on holiday: ü') USING TTL 5000",
    "INSERT INTO {k}.alert_snoozes (kind, id, until) VALUES ('card', 'gone', '2026-12-30T10:00:00Z') USING TTL 1",
    "INSERT INTO {k}.alert_reviews (day, shard, opened_at, alert_id, claimed_by, transactions) "
    "VALUES ('2026-11-30', 3, '2026-11-30T10:00:00Z', 'a1', 'ana', ['t1', 't2']) USING TIMESTAMP 1700000000000002",
    "UPDATE {k}.alert_reviews USING TIMESTAMP 1700000000000009 SET verdict = 'fraud', decided_by = 'bo' WHERE "
    "day = '2026-11-30' AND shard = 3 AND opened_at = '2026-11-30T10:00:00Z' AND alert_id = 'a1'",
    "INSERT INTO {k}.erasures (source_topic, erased_at, id, card_hash, labels, deleted, gone_by) VALUES "
    "('transactions', '2026-11-30T10:00:00Z', 'e1', 'ff', {{0: 7, 1: 9}}, {{'predictions': 4}}, "
    "{{'transactions': '2027-03-01T00:00:00Z'}})",
    "INSERT INTO {k}.model_gates (hash, champion, at, passed, report) VALUES "
    "('ab', 'cd', '2026-11-30T10:00:00Z', true, '{{}}')",
    "INSERT INTO {k}.audit_records (day, at, id, author, action, objects, result, details) VALUES ('2026-11-30', "
    "'2026-11-30T10:00:00Z', 'r1', 'ana', 'label', {{'card/c1', 'transaction/t1'}}, 'done', '{{}}') USING TTL 9000",
    "INSERT INTO {k}.audit_records (day, at, id, author, action, objects, result, details) VALUES ('2026-11-30', "
    "'2026-11-30T10:00:00Z', 'r2', 'ana', 'snooze', {{'rule/x'}}, 'done', '{{\"note\": \"as of c1.\"}}')",
    "INSERT INTO {k}.audit_records (day, at, id, author, action, objects, result, details) VALUES ('2026-11-30', "
    "'2026-11-30T10:00:00Z', 'r3', 'ana', 'snooze', {{'card/c12'}}, 'done', '{{}}')",
    "INSERT INTO {k}.refunds (card_id, month, event_time, transaction_id, amount_minor, amount, source_partition) "
    "VALUES ('c1', '2026-11', '2026-11-30T10:00:00Z', 'r1', -1050, -10.50, 2)",
    "INSERT INTO {k}.conflicting_predictions (card_id, month, event_time, transaction_id, source_partition, "
    "source_offset, features, flags, reasons, score) VALUES ('c1', '2026-11', '2026-11-30T10:00:00Z', 't1', 0, 1, "
    "{{'amount': 1.5}}, {{'late', 'conflicting'}}, ['a', 'decimal'], 0.25)",
)


def rows(session: Any, keyspace: str) -> dict[str, list[Any]]:
    """Every row of every table that is saved, with the time of writing of what was written at a time of its own."""
    found = {}
    for table in (*ONLY_HERE, "refunds", "conflicting_predictions"):
        found[table] = sorted(map(repr, session.execute(f"SELECT * FROM {keyspace}.{table}")))
    written = session.execute(
        f"SELECT writetime(claimed_by), writetime(verdict) FROM {keyspace}.alert_reviews"
    )
    found["written"] = sorted(map(repr, written))
    return found


def test_saved_and_restored(
    settings: Settings, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in environ_of(settings).items():
        monkeypatch.setenv(name, value)
    keyspace = settings.keyspace
    for statement in STATEMENTS:
        session.execute(statement.format(k=keyspace))
    content = session.prepare(
        f"INSERT INTO {keyspace}.model_artifacts (hash, chunk, content) VALUES ('ab', ?, ?)"
    )
    for chunk in range(40):  # several pages
        session.execute(content, (chunk, bytes([chunk]) * 100_000))
    session.execute(
        f"UPDATE {keyspace}.model_artifacts SET manifest = 'all of it' WHERE hash = 'ab' AND chunk = 0"
    )
    folder = tmp_path / "backups" / "one"
    (folder / "lost+found").mkdir(parents=True)
    mounted = folder.stat().st_ino  # what another file system is mounted on cannot be replaced
    assert run(["backup", str(folder), "--rows", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tables"]["model_artifacts"]["rows"] == 40
    assert folder.stat().st_ino == mounted
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]
    assert {one.stat().st_mode & 0o777 for one in folder.glob("*.*")} == {0o600}
    before = rows(session, keyspace)
    assert run(["backup", str(folder)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    monkeypatch.setenv("FRAUDSTREAM_KEYSPACE", "another")
    assert run(["restore", str(folder)]) == 2
    assert f"is a backup of the keyspace {keyspace}, not of another" in capsys.readouterr().err
    assert run(["restore", str(folder), "--other-keyspace"]) == 5, "there is no keyspace `another`"
    monkeypatch.setenv("FRAUDSTREAM_KEYSPACE", keyspace)

    session.execute(f"DROP KEYSPACE {keyspace}", timeout=60)
    assert run(["restore", str(folder)]) == 5, "without its tables"
    nothing = tmp_path / "backups" / "two"
    assert run(["backup", str(nothing)]) == 5
    assert not nothing.exists(), "half a backup"
    migrate(session, settings)
    capsys.readouterr()
    made: list[list[str]] = []

    def execute(session: Any, statements: list[Any], concurrency: int) -> Any:
        made.append([prepared.query_string for prepared, _ in statements])
        return real(session, statements, concurrency=concurrency)

    real = saving.execute_concurrent
    monkeypatch.setattr(saving, "execute_concurrent", execute)
    for _ in range(2):  # twice: nothing changes
        assert run(["restore", str(folder), "--json"]) == 0
        written = json.loads(capsys.readouterr().out)["tables"]
        assert (written["alert_snoozes"]["rows"], written["model_artifacts"]["rows"]) == (1, 40)
        restored = rows(session, keyspace)
        gone = [row for row in restored["alert_snoozes"] if "'gone'" in row]
        assert not gone, "its life was over"
        before["alert_snoozes"] = [row for row in before["alert_snoozes"] if "'gone'" not in row]
        assert restored == before
    # a worker that finds the manifest reads the whole model: nothing else is on its way then, or comes after it
    artifacts = [batch for batch in made if any("model_artifacts" in text for text in batch)]
    last = [["manifest" in text for text in batch] for batch in artifacts]
    half = last[: len(last) // 2]
    assert half[-1] == [True]
    assert not any(map(any, half[:-1]))
    (life,) = session.execute(f"SELECT ttl(note) AS left FROM {keyspace}.alert_snoozes")
    assert 0 < life["left"] <= 5000
    (refund,) = session.execute(f"SELECT amount FROM {keyspace}.refunds")
    assert refund["amount"] == Decimal("-10.50")
    # what is newer than the backup stays
    session.execute(
        f"UPDATE {keyspace}.models SET registered_by = 'cleo' WHERE name = 'm' AND version = 1"
    )
    assert run(["restore", str(folder)]) == 0
    (model,) = session.execute(f"SELECT registered_by FROM {keyspace}.models")
    assert model["registered_by"] == "cleo"

    # what was erased since stays erased, whether or not a topic still has the erase record
    at_ms = 4_000_000_000_000  # later than these rows were written
    card = Erasure("e2", at_ms, "bo", "asked", (0, 9), card_hash=hash_of("c1", "salt"), salt="salt")
    record_erasure(session, settings, card)
    for table in ("refunds", "conflicting_predictions", "alert_snoozes", "audit_records"):
        session.execute(f"TRUNCATE {keyspace}.{table}", timeout=60)
    capsys.readouterr()
    assert run(["restore", str(folder), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["tables"]
    for table in ("refunds", "conflicting_predictions", "alert_snoozes"):
        assert (written[table]["rows"], written[table]["erased"]) == (0, 1), table
        assert not list(session.execute(f"SELECT * FROM {keyspace}.{table}"))
    assert (written["audit_records"]["rows"], written["audit_records"]["erased"]) == (1, 2)
    (record,) = session.execute(f"SELECT id FROM {keyspace}.audit_records")
    assert record["id"] == "r3"
    assert run(["restore", str(folder)]) == 0
    assert "refunds (1 left out: their cards were erased)" in capsys.readouterr().out

    damaged = folder / "models.msgpack.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run(["restore", str(folder)]) == 2
    assert "models.msgpack.gz is missing or does not match backup.json" in capsys.readouterr().err
    (folder / "backup.json").unlink()
    assert run(["restore", str(folder)]) == 4
    assert "there is no backup in" in capsys.readouterr().err


def transactions(first: int, count: int) -> list[Send]:
    """Ten cards in turn."""
    return [
        Send(
            tx_bytes(number, card=f"c{number % 10}", at=number * 60_000), f"c{number % 10}".encode()
        )
        for number in range(first, first + count)
    ]


def test_the_keyspace_is_lost_under_workers(settings: Settings, tmp_path: Path) -> None:
    """The steps of docs/operations.md, in their order."""
    deployment = Deployment(settings)
    deployment.prepare()

    def does(*arguments: str) -> str:
        done = deployment.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 100))
        deployment.drain()
        does("alerts", "snooze", "--card", "c7", "--for", "8h")
        does("backup", str(tmp_path / "saved"))
        deployment.send(transactions(100, 50))
        deployment.drain()
        with connected(settings) as session:
            session.execute(f"DROP KEYSPACE {settings.keyspace}", timeout=60)
        deployment.send(transactions(150, 50))
        wait_until(lambda: fleet["a"].reasons() != [], "the worker to miss its tables")
        does("migrate")
        does("restore", str(tmp_path / "saved"))
        does("rewrite")
        does("erase", "--again")
        if fleet.failures:  # a worker that stopped because tables were missing is started again
            assert "ended with exit code 5" in fleet.failures[0]
            fleet.failures.clear()
            fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        assert not fleet.restarts
        assert deployment.verify()["rows"] == 200
        assert "c7" in does("alerts", "snooze")
        assert "default@1" in does("models", "list")
