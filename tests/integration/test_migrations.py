"""`fraudstream migrate` on a real Cassandra."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cassandra.cluster import Session

from app.cassandra import schema_check, schema_migration
from app.cassandra.command_lock import command_lock
from app.cassandra.migration_files import Migration, load_migrations
from app.cassandra.prediction_queries import find_transactions
from app.cassandra.session import connect, disconnect
from app.errors import BusyError, SchemaError, UnavailableError
from app.settings import Settings
from tests.deployment import wait_until
from tests.worker_settings import environ_of

pytestmark = [pytest.mark.integration, pytest.mark.own_keyspace]

TITLES = [
    "001_keyspace", "002_predictions", "003_transaction_index", "004_labels", "005_conflicting_predictions",
    "006_refunds", "007_alerts", "008_models", "009_rules", "010_alert_reviews",
    "011_challengers",
    "012_erasures", "013_audit_records",
]  # fmt: skip
#: Number of a migration that there is not yet.
NEXT = len(TITLES) + 1


@pytest.fixture
def session(settings: Settings) -> Iterator[Session]:
    session = connect(settings)
    yield session
    disconnect(session)


def test_a_new_keyspace_and_once_more(session: Session, settings: Settings) -> None:
    lines: list[str] = []
    first = schema_migration.migrate(session, settings, say=lines.append)
    assert (first.applied, first.present) == (TITLES, [])
    assert lines[: len(TITLES)] == [f"applied {title}" for title in TITLES]
    schema_check.check_schema(session, settings)
    again = schema_migration.migrate(session, settings)
    assert (again.applied, again.present, again.options) == ([], TITLES, None)
    assert session.execute(f"SELECT * FROM {settings.keyspace}.predictions").one() is None
    recorded = session.execute(f"SELECT * FROM {settings.keyspace}.schema_migrations").all()
    assert {(row["number"], row["checksum"]) for row in recorded} == {
        (m.number, m.checksum) for m in load_migrations()
    }
    assert not session.execute(f"SELECT * FROM {settings.keyspace}.schema_lock").all()


def test_several_at_once_apply_everything_once(session: Session, settings: Settings) -> None:
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: schema_migration.migrate(session, settings), range(3)))
    assert sorted(title for report in reports for title in report.applied) == TITLES
    schema_check.check_schema(session, settings)


def test_the_lock_of_a_crashed_owner_expires(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    session.execute(
        f"INSERT INTO {settings.keyspace}.schema_lock (name, owner) "
        "VALUES ('migrate', 'crashed/1/x') USING TTL 2"
    )
    lines: list[str] = []
    schema_migration.migrate(session, settings, say=lines.append, lock_seconds=2)
    assert lines == [
        f"waiting for crashed/1/x, which is migrating {settings.keyspace}; the lock of a crashed run expires after 2 s"
    ]


def test_of_two_runs_of_a_command_the_second_does_nothing(
    session: Session, settings: Settings
) -> None:
    schema_migration.migrate(session, settings)
    written = (
        f"SELECT WRITETIME(owner) AS at FROM {settings.keyspace}.schema_lock WHERE name = 'retrain'"
    )
    with command_lock(session, settings, "retrain", seconds=12) as check:
        at = session.execute(written).one()["at"]
        with (
            pytest.raises(
                BusyError, match=r"another `fraudstream retrain` is running .* after 120 s"
            ),
            command_lock(session, settings, "retrain"),
        ):
            pass
        with command_lock(session, settings, "another"):
            pass
        wait_until(lambda: session.execute(written).one()["at"] > at, "the lock to be renewed")
        check()
        session.execute(f"TRUNCATE {settings.keyspace}.schema_lock")
        wait_until(lambda: is_lost(check), "the lock to be found lost")
    with command_lock(session, settings, "retrain"):
        pass
    assert not session.execute(f"SELECT * FROM {settings.keyspace}.schema_lock").all()


def is_lost(check: Callable[[], None]) -> bool:
    try:
        check()
    except BusyError as error:
        return "was lost, and another run may have begun" in str(error)
    return False


def test_a_lost_lock_stops_the_run(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)

    def steal(line: str) -> None:
        session.execute(f"TRUNCATE {settings.keyspace}.schema_lock")

    more = [
        *load_migrations(),
        added("CREATE TABLE IF NOT EXISTS ${keyspace}.a (b int PRIMARY KEY)"),
    ]
    more.append(replace(more[-1], number=NEXT + 1))
    with pytest.raises(SchemaError, match="the migration lock of .* was lost"):
        schema_migration.migrate(session, settings, migrations=more, say=steal)


def added(text: str) -> Migration:
    return Migration(NEXT, "more", text)


def test_what_was_applied_must_not_change(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    changed = load_migrations()
    changed[1] = replace(changed[1], text=changed[1].text.replace("extra text", "extra blob"))
    with pytest.raises(SchemaError, match="002_predictions was applied to .* with other text"):
        schema_migration.migrate(session, settings, migrations=changed)


def test_a_run_that_was_cut_off_is_taken_up(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    session.execute(f"DELETE FROM {settings.keyspace}.schema_migrations WHERE number = 3")
    with pytest.raises(SchemaError, match="lacks migration 003: run `fraudstream migrate`"):
        schema_check.check_schema(session, settings)
    assert schema_migration.migrate(session, settings).applied == ["003_transaction_index"]
    schema_check.check_schema(session, settings)


def test_a_statement_that_fails_is_named_and_not_recorded(
    session: Session, settings: Settings
) -> None:
    broken = [*load_migrations(), added("CREATE TABLE IF NOT EXISTS ${keyspace}.t (a nonsense)")]
    with pytest.raises(SchemaError, match=f"migration {NEXT:03}_more failed: "):
        schema_migration.migrate(session, settings, migrations=broken)
    good = [
        *load_migrations(),
        added("CREATE TABLE IF NOT EXISTS ${keyspace}.t (a int PRIMARY KEY)"),
    ]
    assert schema_migration.migrate(session, settings, migrations=good).applied == [
        f"{NEXT:03}_more"
    ]
    # an older release still works with it, and says what it does not know
    assert schema_migration.migrate(session, settings).unknown == [NEXT]
    schema_check.check_schema(session, settings)


def test_a_worker_refuses_a_keyspace_that_is_not_there(settings: Settings) -> None:
    with pytest.raises(SchemaError, match="lacks migration 001: run `fraudstream migrate`"):
        schema_check.check_schema_at_start(settings)


def test_a_worker_that_started_without_cassandra_looks_once_it_answers(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = settings.model_copy(update={"cassandra": "127.0.0.1:1"})

    def refused(
        _: Settings,
    ) -> Session:  # as by a cluster whose replicas of the users are not back yet
        msg = "Cassandra refuses user 'w'"
        raise UnavailableError(msg)

    sessions = [lambda _: connect(nobody), refused, lambda _: session]

    def reached(asked: Settings) -> Session:
        return sessions.pop(0)(asked)

    monkeypatch.setattr(schema_check, "shared_session", reached)

    async def pause() -> bool:
        return bool(sessions)

    assert not schema_check.check_schema_at_start(nobody)
    with pytest.raises(SchemaError, match="lacks migration 001: run `fraudstream migrate`"):
        asyncio.run(schema_check.check_schema_when_it_answers(settings, pause))
    assert not sessions, "it did not stop at the first attempt"
    schema_migration.migrate(session, settings)
    sessions.append(lambda _: session)
    asyncio.run(schema_check.check_schema_when_it_answers(settings, pause))
    assert schema_check.check_schema_at_start(settings)


def test_ttl_and_compaction_follow_the_settings(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    shorter = settings.model_copy(update={"prediction_ttl": "30d"})
    with pytest.raises(
        SchemaError, match=r"keeps rows 400d, but FRAUDSTREAM_PREDICTION_TTL is 30d"
    ):
        schema_check.check_schema(session, shorter)
    assert schema_migration.migrate(session, shorter).options
    assert schema_migration.migrate(session, shorter).options is None
    schema_check.check_schema(session, shorter)
    with pytest.raises(SchemaError, match="keeps rows 30d, but FRAUDSTREAM_PREDICTION_TTL is 400d"):
        schema_check.check_schema(session, settings)
    insert = (
        "INSERT INTO {}.predictions (card_id, month, event_time, transaction_id, score) VALUES "
    )
    session.execute(insert.format(settings.keyspace) + "('c', '2026-11', 0, 't', 0.5)")
    row = session.execute(f"SELECT ttl(score) AS ttl FROM {settings.keyspace}.predictions").one()
    assert 0 < row["ttl"] <= 30 * 86_400


@pytest.mark.parametrize(
    ("drop", "lacks", "repaired"),
    [
        ("ALTER TABLE {}.predictions DROP score", "column predictions.score", None),
        ("ALTER TABLE {}.predictions DROP features", "column predictions.features", None),
        ("DROP TABLE {}.predictions", "table predictions", None),
        ("DROP TABLE {}.labels", "table labels", None),
        ("DROP TABLE {}.schema_lock", None, []),
    ],
)
def test_what_was_dropped_is_refused_and_repaired(
    session: Session, settings: Settings, drop: str, lacks: str | None, repaired: list[str] | None
) -> None:
    schema_migration.migrate(session, settings)
    session.execute(f"ALTER TABLE {settings.keyspace}.predictions ADD ours text")
    schema_check.check_schema(session, settings)  # a column of somebody else's
    session.execute(drop.format(settings.keyspace))
    if lacks is not None:
        with pytest.raises(SchemaError, match=f"lacks {lacks}: run `fraudstream migrate`"):
            schema_check.check_schema_at_start(settings)
    report = schema_migration.migrate(session, settings)
    assert report.repaired == ([lacks] if repaired is None else repaired)
    assert (report.applied, report.missing_indexes) == ([], [])
    schema_check.check_schema(session, settings)
    assert schema_migration.migrate(session, settings).repaired == []
    assert find_transactions(session, settings, "x1") == []  # the index is back as well


def test_an_index_may_be_dropped(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    session.execute(f"DROP INDEX {settings.keyspace}.predictions_by_transaction")
    schema_check.check_schema(session, settings)
    report = schema_migration.migrate(session, settings)
    assert report.repaired == []
    assert "CREATE INDEX IF NOT EXISTS predictions_by_transaction" in report.missing_indexes[0]


def test_what_cannot_be_repaired_says_what_to_do(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    session.execute(f"DROP TABLE {settings.keyspace}.labels")
    session.execute(f"CREATE TABLE {settings.keyspace}.labels (transaction_id text PRIMARY KEY)")
    with pytest.raises(SchemaError, match="table labels has another primary key"):
        schema_check.check_schema(session, settings)
    with pytest.raises(SchemaError, match="drop the table, then run `fraudstream migrate`"):
        schema_migration.migrate(session, settings)


def test_replication_by_datacenter(session: Session, settings: Settings) -> None:
    by_name = settings.model_copy(update={"cassandra_datacenter": "datacenter1"})
    schema_migration.migrate(session, by_name)
    row = session.execute(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s",
        (settings.keyspace,),
    ).one()
    assert row["replication"]["datacenter1"] == "1"


def test_the_command(session: Session, settings: Settings) -> None:
    def run(*args: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "app", "migrate", *args],
            env=environ_of(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert f"{len(TITLES)} migrations, {len(TITLES)} applied now" in run().stdout
    assert json.loads(run("--json").stdout)["present"] == TITLES


def test_waiting_ends_when_the_other_is_done(session: Session, settings: Settings) -> None:
    schema_migration.migrate(session, settings)
    session.execute(
        f"INSERT INTO {settings.keyspace}.schema_lock (name, owner) VALUES ('migrate', 'other/1/x')"
    )
    lines: list[str] = []
    waiting = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        waiting.set()

    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(schema_migration.migrate, session, settings, say=say)
        assert waiting.wait(10)
        session.execute(f"DELETE FROM {settings.keyspace}.schema_lock WHERE name = 'migrate'")
        assert report.result(20).present == TITLES
    assert lines[0].startswith("waiting for other/1/x")
