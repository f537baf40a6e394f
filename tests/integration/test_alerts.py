"""Alerts on real servers: from flagged transactions to rows and lists; replays; acknowledgements and snoozes."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from cassandra.cluster import Session
from cassandra.metadata import Murmur3Token

from app.cassandra.alert_queries import find_alert, key_of
from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.audit_records import AuditRecord, read_records, recorded
from app.cassandra.prediction_rows import moment_of
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import connected
from app.change_author import user_name
from app.domain.alert_policy import AlertPolicy, day_of, place_of
from app.durations import DAY_MS
from app.errors import FraudstreamError, NotFoundError, SchemaError, UnavailableError
from app.settings import Settings
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.prediction_builder import prediction
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

HOUR = 3_600_000


def listed(deployment: Deployment, *options: str) -> list[dict[str, Any]]:
    """What `fraudstream alerts list` prints of the tests' time."""
    day = time.strftime("%Y-%m-%d", time.gmtime(T0 / 1000 - 86_400))
    done = deployment.run("alerts", "list", "--from", day, "--limit", "1000", "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = orjson.loads(done.stdout)["alerts"]
    return found


def stored(deployment: Deployment) -> int:
    """Rows of alerts; without a process per look, which takes long on a busy machine."""
    settings = deployment.settings
    with connected(settings) as session:
        query = f"SELECT COUNT(*) AS n FROM {settings.keyspace}.alerts"  # noqa: S608
        return int(session.execute(query).one()["n"])


def test_flagged_transactions_become_alerts_once(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings.model_copy(update={"threshold": 0.0, "features": ("basic",)}))
    deployment.prepare()
    topics = deployment.topics
    sent = [
        Send(
            tx_bytes(f"{card}-{n}", card=card, at=n * 60_000, amount=f"{10 + n}.00"), card.encode()
        )
        for n in range(30)
        for card in ("c1", "c2", "c3")
    ]
    with Fleet(environ_of(deployment.settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        deployment.send(sent[:45])
        wait_until(lambda: deployment.count(topics.alerts) > 0, "the first alerts")
        fleet.kill("one")
        fleet.start("two")
        fleet.await_ready()
        deployment.send(sent[45:])
        deployment.drain()
        deployment.verify()
        records = deployment.records(topics.alerts)
        alerts = {dict(record.headers)["idempotency-key"]: record.value for record in records}
        for record in records:  # repeated ones are identical
            assert alerts[dict(record.headers)["idempotency-key"]] == record.value
        told = [orjson.loads(value) for value in alerts.values()]
        assert sorted(alert["transaction_id"] for alert in told) == sorted(
            f"tx-{card}-{n}" for n in range(30) for card in ("c1", "c2", "c3")
        )
        # one alert per card and window, each stored with all its transactions
        groups = {alert["alert_id"] for alert in told}
        assert 3 <= len(groups) <= 6
        wait_until(lambda: stored(deployment) == len(alerts), "every alert in Cassandra")
    shown = listed(deployment)
    assert {alert["alert_id"] for alert in shown} == groups
    assert [alert["opened_at"] for alert in shown] == sorted(
        (alert["opened_at"] for alert in shown), reverse=True
    )

    first, second = (
        shown[0]["alert_id"],
        next(a for a in shown if a["card_id"] != shown[0]["card_id"]),
    )
    assert deployment.run("alerts", "ack", first, "--by", "ann", "--note", "seen").returncode == 0
    assert (
        deployment.run("alerts", "snooze", "--card", second["card_id"], "--for", "1h").returncode
        == 0
    )
    states = {alert["alert_id"]: alert["state"] for alert in listed(deployment, "--all")}
    assert states[first] == "acked"
    assert states[second["alert_id"]] == "snoozed"
    opened = {alert["alert_id"] for alert in listed(deployment)}
    assert opened == {alert_id for alert_id, state in states.items() if state == "open"}
    page = deployment.run("alerts", "show", first).stdout
    assert "acknowledged by ann" in page
    assert ": seen" in page
    of_card = deployment.run("alerts", "list", "--card", "c1", "--all", "--json")
    assert {one["card_id"] for one in orjson.loads(of_card.stdout)["alerts"]} == {"c1"}
    deployment.run("alerts", "snooze", "--card", second["card_id"], "--for", "0s")
    audit_lists_them(deployment, shown[0], second["card_id"])
    assert {a["state"] for a in listed(deployment, "--all")} == {"open", "acked"}
    missing = deployment.run("alerts", "show", "20200101T000000-0000000000000000")
    assert (missing.returncode, missing.stderr.count("\n")) == (4, 1)
    verify_compares_them(deployment, told)


def audit_lists_them(deployment: Deployment, acked: dict[str, Any], snoozed: str) -> None:
    """Who acknowledged and snoozed, found by author and by card."""

    def changes(*options: str) -> list[dict[str, Any]]:
        done = deployment.run("audit", "--json", *options)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = orjson.loads(done.stdout)["records"]
        return found

    alert, card = acked["alert_id"], acked["card_id"]
    (ack,) = changes("--by", "ann")
    assert (ack["action"], ack["result"], ack["details"]) == (
        "acknowledge",
        "done",
        {"note": "seen"},
    )
    assert ack["on"] == [f"alert/{alert}", f"card/{card}"]
    assert ack in changes("--on", alert)
    assert ack in changes("--on", card)
    ended, begun = changes("--on", snoozed, "--by", user_name())  # newest first
    assert ended["action"] == begun["action"] == "snooze"
    assert ended["details"]["until"] < begun["details"]["until"]
    assert changes("--limit", "1") == [ended]
    assert changes("--to", ack["at"]) == changes("--on", "nobody") == []
    text = deployment.run("audit").stdout
    assert f"done     ann (command)  from {ack['from']}  acknowledge  alert/{alert}" in text


def verify_compares_them(deployment: Deployment, told: list[dict[str, Any]]) -> None:
    """Other settings are no difference; what somebody edits is one, and what is lost is missing."""

    def verified(**settings: Any) -> dict[str, Any]:
        other = Deployment(deployment.settings.model_copy(update=settings))
        found: dict[str, Any] = orjson.loads(other.run("verify", "--json", "--timeout", "0").stdout)
        return found

    report = verified()
    assert report["missing"] == report["differing"] == report["pending"] == 0, report
    assert report["alerts"] == {
        "required": 90, "found": 90, "repeated": report["alerts"]["repeated"], "other_settings": 0,
        "before": 0, "rows": 90,
    }  # fmt: skip
    report = verified(alert_window=2 * HOUR)
    assert report["missing"] == report["differing"] == 0, report
    assert (report["alerts"]["other_settings"], report["alerts"]["before"]) == (90, 0)
    first, second = told[:2]
    with connected(deployment.settings) as session:
        table = f"{deployment.settings.keyspace}.alerts"
        key = " AND ".join(
            f"{name} = %s"
            for name in (
                "day", "shard", "opened_at", "alert_id", "event_time", "transaction_id",
                "source_partition", "source_offset",
            )
        )  # fmt: skip

        def where(alert: dict[str, Any]) -> tuple[Any, ...]:
            place = key_of(place_of(alert["alert_id"]))
            moment = moment_of(alert["event_time_ms"])
            return (
                *place, moment, alert["transaction_id"], alert["source_partition"],
                alert["source_offset"],
            )  # fmt: skip

        session.execute(f"UPDATE {table} SET severity = 'none' WHERE {key}", where(first))
        session.execute(f"DELETE FROM {table} WHERE {key}", where(second))
    report = verified()
    assert (report["missing"], report["differing"], report["rows_lost"]) == (1, 1, 1), report
    assert {(each["where"], each["what"]) for each in report["examples"]} == {
        ("cassandra (alerts)", "severity"), ("cassandra (alerts)", "row"),
    }  # fmt: skip


async def test_every_column_comes_back(session: Session, settings: Settings) -> None:
    policy = AlertPolicy(("model", "rule"), HOUR, (1, 2, 3))
    full = policy.alert(
        prediction(
            "ü", card="card-ç", is_fraud=True, rules=["large", "new"], action="decline", anomaly_score=0.75,
            reasons=["one", "two"], flags=["late"],
        )
    )  # fmt: skip
    bare = prediction("b", card="c", is_fraud=True)
    del bare["terminal_id"]
    alerts = [full, policy.alert(bare)]
    packed = AlertPacker(2).pack_many(map(orjson.dumps, alerts))
    writer = RowWriter(session, settings, ALERTS)
    await writer.write(packed)
    await writer.write(packed)  # a repetition is the same row
    await writer.close()
    for alert, row in zip(alerts, packed, strict=True):
        assert alert is not None
        found = find_alert(session, settings, alert["alert_id"], 0)
        assert found is not None
        (stored,) = found.transactions
        assert stored == {
            name: value
            for name, value in alert.items()
            if name not in ("key", "scored_by", "policy")
        }
        token = session.execute(
            f"SELECT token(day, shard) AS place, amount FROM {settings.keyspace}.alerts "  # noqa: S608
            "WHERE alert_id = %s ALLOW FILTERING",
            (alert["alert_id"],),
        ).one()
        assert token["place"] == Murmur3Token.hash_fn(ALERTS.routing_key(row))
        assert token["amount"] * 100 == alert["amount_minor"]


def test_records_say_how_a_change_ended(
    session: Session, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    day, later = T0 // DAY_MS * DAY_MS, T0 // DAY_MS * DAY_MS + 3 * DAY_MS
    settings = settings.model_copy(update={"audit_ttl": "2h"})

    def changed(at_ms: int, error: BaseException | None = None) -> AuditRecord:
        record = AuditRecord(at_ms, "ann", "command", "ann@desk", "label", frozenset({"card/c"}))
        with suppress(FraudstreamError, KeyboardInterrupt):  # noqa: SIM117
            with recorded(session, settings, record) as details:
                details["verdict"] = "fraud"
                if error is not None:
                    raise error
        return record

    wanted = [
        changed(later).ended("done", verdict="fraud"),
        changed(day + 1, NotFoundError("none")).ended("refused", verdict="fraud", why="none"),
        changed(day, UnavailableError("away")).ended("failed", verdict="fraud", why="away"),
        changed(day - 1, KeyboardInterrupt()).ended("failed", verdict="fraud"),
    ]

    def read(from_ms: int, to_ms: int) -> list[AuditRecord]:
        return list(read_records(session, settings, from_ms=from_ms, to_ms=to_ms))

    assert read(day - 1, later + 1) == wanted  # newest first, each once
    assert read(day, later) == wanted[1:3]
    table = f"{settings.keyspace}.audit_records"
    (row,) = session.execute(
        f"SELECT TTL(details) AS left FROM {table} WHERE day = %s", (day_of(later),)
    )
    assert 7_000 < row["left"] <= 7_200
    # whatever becomes of the record of its end, the change stands
    record = AuditRecord(later, "bob", "command", "bob@desk", "label")
    with recorded(session, settings, record):
        session.execute(f"DROP TABLE {table}", timeout=60)
    assert "stays `started`, although the change is done" in caplog.text
    made = []
    with (
        pytest.raises(SchemaError, match="nothing was changed: the audit record cannot be written"),
        recorded(session, settings, record),
    ):
        made.append(1)
    assert made == []
