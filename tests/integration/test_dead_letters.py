"""Malformed records among good ones on real servers, and the way back of those that are good after all."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import Settings
from tests.builders import tx, tx_bytes
from tests.deployment import Deployment, Position, Send
from tests.fleet import Fleet
from tests.malformed import CORPUS, Malformed, as_sent_for_real
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000


def letters(deployment: Deployment) -> dict[Position, Any]:
    """Dead letters by the position of their source."""
    found: dict[Position, Any] = {}
    for record in deployment.records(deployment.topics.dead_letters):
        topic, partition, offset = record.key.decode().rsplit("/", 2)
        assert topic == deployment.topics.transactions.name
        assert (int(partition), int(offset)) not in found
        found[int(partition), int(offset)] = record
    return found


def test_three_in_ten_are_malformed_and_all_good_ones_are_scored(
    settings: Settings, tmp_path: Path
) -> None:
    # negative amounts are among them
    settings = settings.model_copy(update={"refunds": "dead"})
    deployment = Deployment(settings)
    deployment.prepare()
    bad = [as_sent_for_real(each, settings.max_message_bytes) for each in CORPUS]
    mixed: list[Malformed | None] = []
    for number, each in enumerate(bad):
        mixed += [each, None, None] + ([None] if number % 3 == 0 else [])
    records = []
    for number, each in enumerate(mixed):
        card = f"c{number % 7}"  # c1 is the card that malformed ones name
        good = tx_bytes(f"good-{number}", card=card, at=number * MINUTE)
        records.append(Send(each.value, each.key) if each else Send(good, card.encode()))
    share = len(bad) / len(mixed)
    assert 0.29 < share < 0.31
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        sent = deployment.send(records)
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
        assert not fleet.restarts
    assert (report["scored"], report["dead"]) == (len(mixed) - len(bad), len(bad))

    found = letters(deployment)
    expected = {place: each for place, each in zip(sent, mixed, strict=True) if each is not None}
    assert found.keys() == expected.keys()
    for place, record in found.items():
        headers, each = dict(record.headers), expected[place]
        assert headers["reason"].decode() == each.reason, each
        assert headers.get("key") == (each.key and each.key[:4096])
        if "size" in headers:
            assert each.value is not None
            assert int(headers["size"]) == len(each.value)
            assert record.value == each.value[: settings.max_message_bytes]
        else:
            assert record.value == each.value
    scored = {
        orjson.loads(record.value)["transaction_id"]
        for record in deployment.records(deployment.topics.predictions)
    }
    assert scored == {f"tx-good-{n}" for n, each in enumerate(mixed) if each is None}


def test_a_version_that_was_unknown_is_sent_back_after_the_upgrade(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    upgraded = {"field_names": "card_id=cardNumber,2:amount=value"}

    def of_version_2(number: int) -> Send:
        fields = tx(f"v2-{number}", card=f"c{number}", at=number * MINUTE, schema_version=2)
        fields |= {
            "value": fields.pop("amount"),
            "cardNumber": fields.pop("card_id"),
            "new": [number],
        }
        return Send(orjson.dumps(fields), f"c{number}".encode())

    def of_version_1(number: int, **fields: Any) -> Send:
        return Send(tx_bytes(f"v1-{number}", card=f"c{number}", **fields), f"c{number}".encode())

    def redrive(*arguments: str) -> dict[str, Any]:
        done = deployment.run("deadletters", "redrive", "--json", *arguments)
        assert not done.stderr
        result: dict[str, Any] = orjson.loads(done.stdout)
        return result

    def ends() -> int:
        return deployment.count(deployment.topics.transactions)

    def work() -> dict[str, Any]:
        with Fleet(environ_of(deployment.settings), tmp_path) as fleet:
            fleet.start("one")
            fleet.await_ready()
            deployment.drain()
            assert not fleet.restarts
        return deployment.verify()

    version_2 = [of_version_2(number) for number in range(9)]
    broken = [
        Send(b"{", b"c1"),
        Send(None, b"c2"),
        Send(b" " * (2 << 20), b"c3"),
        Send(b"{}", None),
    ]
    version_1 = [of_version_1(number) for number in range(9)]
    sent = deployment.send(version_2 + broken + version_1)
    dead = len(version_2) + len(broken)
    report = work()
    assert (report["scored"], report["dead"]) == (9, dead)
    reasons = {place: dict(r.headers)["reason"] for place, r in letters(deployment).items()}
    assert {reasons[place] for place in sent[:9]} == {b"unknown_schema_version"}

    none = deployment.run("deadletters", "redrive")
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    topic = deployment.topics.transactions.name
    assert deployment.run("deadletters", "redrive", f"{topic}/0/9999").returncode == 4
    would = redrive("--all", "--dry-run")
    assert (would["sent"], len(would["refused"]), would["again"]) == (dead - 1, 1, 0)
    assert "only the beginning of its 2,097,152 bytes" in would["refused"][0]["why"]
    assert redrive("--reason", "no_such_reason")["sent"] == 0
    assert ends() == len(sent)

    # one by its position, then all of that reason: that one a second time; and one that dies again
    assert redrive(f"{topic}/{sent[0][0]}/{sent[0][1]}")["sent"] == 1
    assert redrive("--reason", "unknown_schema_version")["reasons"] == {"unknown_schema_version": 9}
    assert redrive("--reason", "invalid_json")["sent"] == 1
    assert ends() == len(sent) + 11
    came = dict(zip(sent, version_2 + broken + version_1, strict=True))
    for record in deployment.records(deployment.topics.transactions):
        for name, origin in record.headers:
            partition, offset = origin.decode().rsplit("/", 2)[1:]
            first = came[int(partition), int(offset)]
            assert (name, record.value, record.key) == ("redriven", first.value, first.key)

    # the upgrade: both versions side by side
    deployment = Deployment(settings.model_copy(update=upgraded))
    deployment.send([of_version_2(10), of_version_1(11), of_version_1(12, schema_version=1)])
    report = work()
    assert (report["scored"], report["duplicate"], report["dead"]) == (9 + 9 + 3, 1, dead + 1)
    assert report["dead_by_earlier_rules"] == 9
    passed_on = [orjson.loads(r.value) for r in deployment.records(deployment.topics.predictions)]
    new = {fields["card_id"]: fields for fields in passed_on if "new" in fields}
    assert new.keys() == {f"c{number}" for number in (*range(9), 10)}
    assert all((f["schema_version"], f["amount"]) == (2, 10.0) for f in new.values())
    rows = deployment.rows("card_id", "schema_version", "extra")
    assert {row[0] for row in rows if row[1] == 2} == new.keys()
    assert all(orjson.loads(row[2])["new"] for row in rows if row[1] == 2)

    assert redrive("--reason", "invalid_json", "--dry-run") == {
        "dry_run": True, "sent": 1, "reasons": {"invalid_json": 1}, "refused": [], "again": 1,
    }  # fmt: skip
