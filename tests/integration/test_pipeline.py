"""The whole pipeline on real servers: every record ends where it belongs, whatever it is."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.ops.reference import murmur2_partition
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Position, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

HOUR = 3_600_000
CARDS = [f"c{number}" for number in range(12)]
STEPS = 12
YEAR_2999 = 32_472_144_000_000


def every_kind(partitions: int) -> Iterator[tuple[str, Send]]:
    """What each record is to become, and the record: a dozen cards, an hour between their events."""
    dead = broken()
    for step in range(STEPS):
        for number, card in enumerate(CARDS):
            name, key, at = f"{card}-{step}", card.encode(), (100 + step) * HOUR
            of_card = {"card": card, "terminal": f"t{(number + step) % 5}" if number else None}
            kept = tx_bytes(name, at=at, **of_card, note=name)
            yield "in_time", Send(kept, key)
            kind = (step * len(CARDS) + number) % 8 if step else None
            if kind == 1:
                yield "out_of_order", Send(tx_bytes(f"{name}o", at=at - HOUR // 2, **of_card), key)
            elif kind == 2:
                yield "late", Send(tx_bytes(f"{name}l", at=at - 96 * HOUR, **of_card), key)
            elif kind == 3:
                yield "duplicate", Send(kept, key)
            elif kind == 4:
                away = (murmur2_partition(key, partitions) + 1) % partitions
                yield "moved", Send(tx_bytes(f"{name}m", at=at, **of_card), key, away)
            elif kind == 5:
                yield next(dead)


def broken() -> Iterator[tuple[str, Send]]:
    """Records that are no transactions, with the reason that is given, again and again."""
    while True:
        yield "invalid_json", Send(b"{bad", b"c1")
        yield "empty_value", Send(None, b"c1")
        yield "missing_key", Send(tx_bytes("nokey"), None)
        yield "key_mismatch", Send(tx_bytes("otherkey", card="c2"), b"c1")
        yield "in_the_future", Send(tx_bytes("f", event_time=YEAR_2999), b"c1")
        yield "amount_precision", Send(tx_bytes("n", card="c3", amount=0.001), b"c3")
        yield "foreign_currency", Send(tx_bytes("u", currency="USD"), b"c1")
        yield "not_an_object", Send(b"[1]", b"c1")


def places(deployment: Deployment) -> dict[str, set[Position]]:
    """Source positions by where they are found."""
    topics = deployment.topics
    found: dict[str, set[Position]] = defaultdict(set)

    def note(where: str, topic: str, partition: Any, offset: Any) -> None:
        assert topic == topics.transactions.name
        position = int(partition), int(offset)
        assert position not in found[where], f"{position} twice in {where}"
        found[where].add(position)

    for spec, where in ((topics.predictions, "predictions"), (topics.late_transactions, "late")):
        for record in deployment.records(spec):
            fields = orjson.loads(record.value)
            place = [fields[f"source_{part}"] for part in ("topic", "partition", "offset")]
            note(where, *place)
            for flag in fields["flags"] if where == "predictions" else ():
                note(f"flag {flag}", *place)
    for record in deployment.records(topics.dead_letters):
        topic, partition, offset = record.key.decode().rsplit("/", 2)
        note(dict(record.headers)["reason"].decode(), topic, partition, offset)
    for record in deployment.records(topics.duplicates):
        fields = orjson.loads(record.value)
        note("duplicate", *(fields[f"source_{part}"] for part in ("topic", "partition", "offset")))
    for record in deployment.records(topics.transactions):
        for _, origin in record.headers:
            note("moved", *origin.decode().rsplit("/", 2))
            found["copies"].add((record.partition, record.offset))
    for topic, partition, offset in deployment.rows(
        "source_topic", "source_partition", "source_offset"
    ):
        note("rows", topic, partition, offset)
    return found


def test_every_kind_of_record_ends_in_its_place(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    assert deployment.run("topics").returncode == 0
    assert deployment.run("migrate").returncode == 0
    kinds, records = zip(*every_kind(settings.partitions), strict=True)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        sent = deployment.send(records)
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
    expected: dict[str, set[Position]] = defaultdict(set)
    for kind, position in zip(kinds, sent, strict=True):
        expected[kind].add(position)
    assert len(sent) > 200
    found = places(deployment)

    scored = set.union(*(expected[kind] for kind in ("in_time", "out_of_order", "late")))
    assert found["predictions"] == found["rows"] == scored | found["copies"]
    assert found["late"] == found["flag late"] == expected["late"]
    assert found["flag out_of_order"] - found["copies"] == expected["out_of_order"]
    for kind in expected.keys() - {"in_time", "out_of_order", "late"}:
        assert found[kind] == expected[kind], kind
    assert len(found["copies"]) == len(expected["moved"])
    refused = expected.keys() - {"in_time", "out_of_order", "late", "duplicate", "moved"}
    dead = set.union(*(expected[reason] for reason in refused))
    assert len(refused) == 8

    # the same in figures, and every feature recomputed
    assert {name: report[name] for name in ("read", "scored", "late", "duplicate", "dead", "moved")} == {
        "read": len(sent) + len(found["copies"]),
        "scored": len(scored) - len(expected["late"]) + len(found["copies"]),
        "late": len(expected["late"]),
        "duplicate": len(expected["duplicate"]),
        "dead": len(dead),
        "moved": len(expected["moved"]),
    }  # fmt: skip
    assert report["rows"] == len(found["rows"])

    # dead letters hold the original bytes; predictions what came, and more
    values = {
        (r.partition, r.offset): r.value for r in deployment.records(deployment.topics.transactions)
    }
    for record in deployment.records(deployment.topics.dead_letters):
        _, partition, offset = record.key.decode().rsplit("/", 2)
        assert record.value == values[int(partition), int(offset)]
    for record in deployment.records(deployment.topics.predictions):
        fields = orjson.loads(record.value)
        came = orjson.loads(values[fields["source_partition"], fields["source_offset"]])
        assert came.items() <= fields.items()
