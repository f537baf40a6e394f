"""Reused ids, repetitions and refunds on real servers; and every counter of a worker against what `verify` finds."""

import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.ops.reference import murmur2_partition
from app.settings import Settings
from tests.builders import tx, tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

HOUR = 3_600_000


def sent_of(settings: Settings) -> list[Send]:
    """Everything that a record can become; the first card is the one whose rows are looked at."""

    def one(number: int | str, card: str = "c1", **fields: Any) -> Send:
        return Send(tx_bytes(number, card=card, **fields), card.encode())

    records = [
        one("same", amount=10.0),
        one("same", amount=9_000.0),  # the same moment: one key in `predictions`
        one("same", amount=9_000.0),
        one("same", amount=10.0, at=HOUR, terminal="t9"),
        one("same", amount=10.0),
        one("same", card="c2", amount=7.0),
        one("back", amount=-4.0, at=HOUR),
        one("back", amount=-4.0, at=HOUR),
        one("back", amount=-5.0, at=HOUR),
    ]
    for number in range(200):
        card = f"c{3 + number % 7}"
        records.append(one(number, card=card, at=number * HOUR, terminal=f"t{number % 3}"))
        if number % 10 == 0:
            records.append(one(f"late{number}", card=card, at=number * HOUR - 100 * HOUR))
            records.append(Send(b"{bad", card.encode()))
        if number % 20 == 0:
            away = (murmur2_partition(b"m", settings.partitions) + 1) % settings.partitions
            records.append(Send(tx_bytes(f"m{number}", card="m", at=number * HOUR), b"m", away))
    return records


def metrics(url: str) -> dict[tuple[str, ...], float]:
    """Every sample of a worker that is not of a partition, by name and label values in the order of label names."""
    found: Counter[tuple[str, ...]] = Counter()
    with urllib.request.urlopen(f"{url}/metrics") as reply:
        text = reply.read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not {"partition", "le"} & sample.labels.keys():
                labels = [value for _, value in sorted(sample.labels.items())]
                found[sample.name, *labels] += sample.value
    return dict(found)


def test_counters_are_what_verify_finds(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topics = deployment.topics
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        positions = deployment.send(sent_of(settings))
        labels = [
            {**tx(number, card=f"c{3 + number % 7}", at=number * HOUR, terminal=f"t{number % 3}"),
             "is_fraud": number % 2 == 0, "labelled_at": tx()["event_time"] + 300 * HOUR + number}
            for number in range(0, 100, 10)
        ]  # fmt: skip
        deployment.drain()
        deployment.send(
            [Send(orjson.dumps(label), label["transaction_id"].encode()) for label in labels]
            + [Send(b"{bad", b"x")],
            topics.labels,
        )
        deployment.drain()
        report = deployment.verify()
        url = fleet.workers["one"].url
        wait_until(lambda: metrics(url)["fraudstream_sink_rows_total",] == report["rows"], "rows")
        told = metrics(url)
        shown = deployment.run("transaction", "tx-same", "--json")
        printed = deployment.run("transaction", "tx-same")
        with urllib.request.urlopen(f"{url}/transactions/tx-same/") as reply:
            page = reply.read().decode()
        with urllib.request.urlopen(f"{url}/index.json") as reply:
            overview = orjson.loads(reply.read())

    assert report["read"] > len(positions)  # misrouted ones are read once more
    assert all(
        report[name] for name in ("scored", "late", "conflicting", "duplicate", "dead", "moved")
    )
    assert (report["conflicting"], report["refund"], report["refund_rows"]) == (2, 3, 2)

    def outcome(stage: str, name: str) -> float:
        return told.get(("fraudstream_outcomes_total", name, stage), 0)

    # transactions
    for name in ("duplicate", "refund", "dead", "moved"):
        assert outcome("cards", name) == report[name], name
    for name in ("scored", "late", "conflicting"):
        assert outcome("scoring", name) == report[name], name
    scored = report["scored"] + report["late"] + report["conflicting"]
    assert outcome("cards", "enriched") == scored
    # labels
    of_labels = report["labels"]
    assert outcome("labels", "forwarded") == of_labels["forwarded"] == len(labels)
    assert outcome("labels", "dead") == of_labels["dead"] == 1
    assert outcome("scoring", "labelled") == len(labels)
    # records of topics
    for stage, topic in (
        ("cards", topics.transactions), ("labels", topics.labels), ("scoring", topics.enriched),
        ("sink", topics.predictions), ("refunds", topics.refunds),
    ):  # fmt: skip
        assert told["fraudstream_messages_total", stage] == len(deployment.records(topic)), stage
        assert overview["stages"][stage]["records"] == told["fraudstream_messages_total", stage]
    assert told["fraudstream_messages_total", "cards"] == report["read"]
    # rows
    assert told["fraudstream_sink_rows_total",] == scored == report["rows"]
    assert told["fraudstream_refund_rows_total",] == report["refund"]
    assert told["fraudstream_append_to_row_seconds_count",] == scored

    # every transaction with the id, wherever one asks
    first = orjson.loads(shown.stdout)
    rows = [first, *first["others"]]
    told_rows = sorted(
        (row["card_id"], row["amount"], "conflicting" in row["flags"]) for row in rows
    )
    assert told_rows == [
        ("c1", "10.00", False), ("c1", "10.00", True), ("c1", "9000.00", True), ("c2", "7.00", False),
    ]  # fmt: skip
    assert "4 transactions have the id tx-same" in printed.stdout
    for text in ("4 transactions have this id", "9,000.00", "7.00"):
        assert text in page
