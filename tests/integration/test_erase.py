"""Erasing a card on real servers: nothing of it is left in any data folder once the documented steps are done."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from app.cassandra.erase_audit_records import AUDIT_RECORDS
from app.cassandra.erase_rows import ALERT_TABLES, CARD_TABLES, SNOOZES
from app.cassandra.session import connected
from app.devstack.server import ExtraConfiguration
from app.devstack.stack import Stack
from app.domain.transaction import hash_id
from app.settings import ENV_PREFIX, NOT_SETTINGS, Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

#: No other text in a data folder has these bytes.
CARD = "erase-me-7b1f"
HOUR = 3_600_000
#: Brokers look every five minutes, and wait a minute before they delete a file.
_KAFKA = """
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.cleaner.backoff.ms=200
"""
_SHORT = {
    "delete": {"retention.ms": "500", "segment.ms": "500", "file.delete.delay.ms": "100"},
    "compact": {
        "segment.ms": "500",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "500",
        "min.cleanable.dirty.ratio": "0.001",
        "delete.retention.ms": "0",
        "file.delete.delay.ms": "100",
    },
}


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Servers of our own: a broker that deletes soon."""
    with tempfile.TemporaryDirectory(prefix="fraudstream-erase-") as home:
        stack = Stack(Path(home), quick=True, extras={"kafka": ExtraConfiguration(_KAFKA)})
        stack.up(free_ports=True)
        try:
            yield stack
        finally:
            stack.wipe()


@pytest.fixture
def deployment(own_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    for name in [n for n in os.environ if n.startswith(ENV_PREFIX) and n not in NOT_SETTINGS]:
        monkeypatch.delenv(name)
    endpoints = own_stack.endpoints()
    assert endpoints
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=tmp_path / "home",
        broker=endpoints.broker,
        cassandra=",".join(f"{host}:{port}" for host, port in endpoints.cassandra),
        partitions=2,
        web_port=0,
        features=("basic",),
        model="default@1",
        threshold=0.0,  # every transaction is an alert
    )
    made = Deployment(settings)
    made.prepare()
    return made


@pytest.mark.timeout(600)
def test_nothing_of_a_card_is_left(
    deployment: Deployment, own_stack: Stack, tmp_path: Path
) -> None:
    settings = deployment.settings
    servers = own_stack.home / "servers"
    kafka, cassandra = servers / "kafka" / "data", servers / "cassandra" / "data"
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        deployment.send(_records())
        deployment.drain()
        _touch_everything(deployment)
        deployment.drain()
        deployment.verify()
        state = fleet["one"].datadir
        fleet.terminate("one")  # what is in memory only goes to disk
        with connected(settings) as session:
            _flush(session, settings)
        wait_until(lambda: any(n.endswith("Data.db") for n in _files_with(cassandra)), "a flush")
        for folder in (kafka, state, cassandra):
            found = _files_with(folder)
            assert found, f"the search finds nothing in {folder} before the erasure"
            print(f"before: {len(found)} of {_searched(folder)} have the card")
        fleet.start("one")
        fleet.await_ready()

        _erase(deployment)
        report = deployment.verify()
        assert (report["erased_cards"], report["differing"]) == (1, 0)
        assert report["erased_transactions"] >= 20
        assert report["labels"]["erased"] >= 2
        assert CARD not in deployment.run("lists", "list").stdout
        url = f"http://127.0.0.1:{fleet['one'].port}"
        assert deployment.run("card", CARD, "--url", url).returncode == 4
        assert deployment.run("card", "c1", "--url", url).returncode == 0
        done = deployment.run("erase", "--card", "c2", "--reason", "request 4712", "--yes")
        assert done.returncode == 0, done.stderr
        assert "Records in Kafka are gone by:\n  transactions " in done.stdout

        # docs/private-data.md, "After the erasure": Kafka's dates, made short
        _make_short(deployment)

        def gone() -> bool:
            """No transactions come: the command itself closes the segments of compacted topics."""
            done = deployment.run("erase", "--again")
            assert done.returncode == 0, done.stderr
            return not _files_with(kafka)

        try:
            wait_until(gone, "Kafka has deleted all of the card", 240)
        except AssertionError:
            pytest.fail(f"after 240 s the card is still in {_files_with(kafka)}")
        # a worker's state: deleted, and rebuilt from the changelog
        fleet.terminate("one")
        fleet.wipe("one")
        fleet.start("one")
        fleet.await_ready()
        deployment.send([Send(tx_bytes("since", card="c1", terminal="t1", at=100_000), b"c1")])
        deployment.drain()
        fleet.terminate("one")
    assert _files_with(state) == []
    # Cassandra: once gc_grace_seconds are over
    with connected(settings) as session:
        _compact(session, settings)
        wait_until(
            lambda: not [name for name in _files_with(cassandra) if "commitlog" not in name],
            "Cassandra has compacted all of the card",
        )
    done = deployment.run("erase", "--list", "--card", CARD, "--json")
    (audit,) = json.loads(done.stdout)["erasures"]
    assert (audit["reason"], bool(audit["by"])) == ("request 4711", True)
    assert audit["deleted"]["predictions"] >= 20
    assert "was not erased" in deployment.run("erase", "--list", "--card", "c1").stdout
    records = _changes(deployment, CARD)
    assert {one["action"] for one in records} == {"label", "acknowledge", "snooze"}
    assert {one["by"] for one in records if one["action"] == "label"} == {"ann"}
    everything = json.dumps(_changes(deployment))
    assert "because of erased-" in everything
    assert CARD not in everything
    assert hash_id(CARD).hex() not in everything
    own_stack.stop("cassandra")  # it drains: nothing is left in its commit log
    for folder in (kafka, state, cassandra):
        assert _files_with(folder) == []
        print(f"after: none of {_searched(folder)} has the card")


def _changes(deployment: Deployment, card: str | None = None) -> list[dict[str, Any]]:
    """What `fraudstream audit` lists."""
    done = deployment.run("audit", "--json", *(() if card is None else ("--on", card)))
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["records"]
    return found


def _records() -> list[Send]:
    """Transactions of the card and of others; refunds, repetitions, refused, conflicting and late ones."""
    sent = [
        Send(
            tx_bytes(n, card=card, terminal=f"t{n % 3}", at=n * 1_000, amount=n + 1), card.encode()
        )
        for n, card in enumerate((CARD, "c1", "c2") * 20)
    ]
    key = CARD.encode()
    return [
        *sent,
        Send(tx_bytes(0, card=CARD, terminal="t0", at=0, amount=1), key),
        Send(tx_bytes(0, card=CARD, terminal="t1", at=5_000, amount=9), key),
        Send(tx_bytes("late", card=CARD, at=-30 * HOUR), key),
        Send(tx_bytes("refund", card=CARD, at=1_000, amount=-5), key),
        Send(tx_bytes("dead", card=CARD, event_time="never"), key),
        Send(tx_bytes("misrouted", card=CARD, at=70_000), key, 0),
        Send(tx_bytes("misrouted", card=CARD, at=71_000), key, 1),
    ]


def _touch_everything(deployment: Deployment) -> None:
    """Labels that are applied, wait at a terminal and are parked; entries of lists; what people noted of an alert."""
    settings = deployment.settings

    def label(**fields: Any) -> Send:
        said = {"is_fraud": True, "labelled_at": 1_700_000_000_000, **fields}
        return Send(orjson.dumps(said), str(fields["transaction_id"]).encode())

    deployment.send(
        [
            label(transaction_id="tx-3"),
            label(transaction_id="nobody", card_id=CARD),
            label(
                transaction_id="to-come",
                card_id=CARD,
                terminal_id="t1",
                event_time=1_700_000_900_000,
            ),
        ],
        deployment.topics.labels,
    )
    for arguments in (
        ("lists", "add", "block", "card", CARD, "c7"),
        ("alerts", "snooze", "--card", CARD, "--for", "1h"),
        ("alerts", "snooze", "--rule", "r", "--for", "1h", "--note", f"because of {CARD}"),
        ("alerts", "snooze", "--rule", "r", "--for", "0s"),  # a snooze keeps its note until it ends
        ("label", "tx-3", "fraud", "--by", "ann"),
    ):
        done = deployment.run(*arguments)
        assert done.returncode == 0, done.stderr
    found = deployment.run("alerts", "list", "--card", CARD, "--all", "--json")
    alert = json.loads(found.stdout)["alerts"][0]["alert_id"]
    done = deployment.run("alerts", "ack", alert, "--note", f"asked the owner of {CARD}")
    assert done.returncode == 0, done.stderr
    with connected(settings) as session:
        wait_until(
            lambda: bool(list(session.execute(f"SELECT * FROM {settings.keyspace}.labels"))),  # noqa: S608
            "the label is stored",
        )


def _erase(deployment: Deployment) -> None:
    done = deployment.run("erase", "--card", CARD, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    (would,) = json.loads(done.stdout)["erasures"]
    done = deployment.run("erase", "--card", CARD, "--reason", "request 4711", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (erasure,) = json.loads(done.stdout)["erasures"]
    assert erasure["deleted"] == would["deleted"]
    assert all(erasure["deleted"][table.name] for table in CARD_TABLES), erasure
    assert erasure["deleted"]["alert_acks"] == erasure["deleted"][SNOOZES] == 1
    assert erasure["deleted"][AUDIT_RECORDS] == 4
    assert erasure["gone_by"].keys() == {topic.name for topic in deployment.topics.all}
    assert erasure["no_date"] == []


def _make_short(deployment: Deployment) -> None:
    """As if the dates had come: retention and compaction within seconds."""
    admin = AdminClient({"bootstrap.servers": deployment.settings.broker})
    resources = []
    for topic in deployment.topics.all:
        kind = "compact" if topic.config["cleanup.policy"] == "compact" else "delete"
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in _SHORT[kind].items()
        ]
        resources.append(
            ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
        )
    for future in admin.incremental_alter_configs(resources).values():
        future.result()


def _files_with(folder: Path) -> list[str]:
    """Files that have the card's id in their bytes."""
    wanted, found = CARD.encode(), []
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and wanted in path.read_bytes():
                found.append(str(path.relative_to(folder)))
        except FileNotFoundError:  # just deleted
            continue
    return found


def _searched(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, in {folder}"


_TABLES = (*(table.name for table in CARD_TABLES), *ALERT_TABLES, SNOOZES, AUDIT_RECORDS)


def _flush(session: Any, settings: Settings) -> None:
    """As `nodetool flush`, which needs more of Java than the runtime of our servers has."""
    for name in _TABLES:
        session.execute(
            f"ALTER TABLE {settings.keyspace}.{name} WITH memtable_flush_period_in_ms = 500"
        )


def _compact(session: Any, settings: Settings) -> None:
    """As `nodetool compact` after the grace time: by levels, all files that were flushed become one."""
    for name in _TABLES:
        session.execute(
            f"ALTER TABLE {settings.keyspace}.{name} WITH gc_grace_seconds = 0 "
            "AND compaction = {'class': 'LeveledCompactionStrategy'}"
        )
    time.sleep(2)  # a tombstone counts its age in seconds
    session.cluster.refresh_schema_metadata()
    for name in _TABLES:  # something to flush: compaction follows it
        table = session.cluster.metadata.keyspaces[settings.keyspace].tables[name]
        values = {"text": "'x'", "timestamp": "0"}
        where = " AND ".join(
            f"{one.name} = {values.get(one.cql_type, '0')}" for one in table.primary_key
        )
        session.execute(f"DELETE FROM {settings.keyspace}.{name} WHERE {where}")  # noqa: S608
