"""`verify` and alerts: what predictions require is on the topic and in Cassandra, and nothing else is."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.domain.alert_policy import AlertPolicy, group_of
from app.domain.changes import ListChange, RuleChange
from app.ops.reference_alerts import AlertPolicyAt, alert_id
from app.ops.verification.totals import Report
from tests.builders import tx_bytes
from tests.verify_world import VerifyWorld, alerts_of

HOUR = 3_600_000


def send(world: VerifyWorld, numbers: range) -> None:
    rng = random.Random(numbers.start)
    for number in numbers:
        card = f"c{rng.randrange(6)}"
        value = tx_bytes(
            number, card=card, terminal=f"t{rng.randrange(4)}", at=number * HOUR // 4 - 100 * HOUR,
            amount=rng.randrange(100_000) / 100,
        )  # fmt: skip
        world.send(value, card.encode())
    world.run()


def busy(**settings: Any) -> VerifyWorld:
    """Transactions that the model flags, rules, lists, and nobody."""
    world = VerifyWorld(threshold=0.02, **settings)
    for name, expression, action, reason in (
        ("large", "amount > 700", "review", "a large amount"),
        ("huge", "amount > 950", "decline", ""),
        ("trusted", "card_id == 'c4'", "allow", ""),
    ):
        world.control(RuleChange(name=name, expression=expression, action=action, reason=reason))
    world.control(ListChange(name="block", subject="terminal", ids=("t2",)))
    world.control(ListChange(name="allow", subject="card", ids=("c5",)))
    send(world, range(120))
    return world


@pytest.fixture
def world() -> VerifyWorld:
    return busy()


def alert(world: VerifyWorld, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the n-th alert; its row stays."""
    record = world.log(world.topics.alerts)[number]
    fields = orjson.loads(record.value or b"")
    change(fields)
    world.change(world.topics.alerts, number, value=orjson.dumps(fields))


def whats(report: Report) -> set[str]:
    return {example["what"] for example in report.examples}


def counts(report: Report) -> dict[str, int]:
    return {name: count for name, count in report.details["alerts"].items() if count}


@pytest.mark.parametrize("on", [("model", "rule"), ("rule", "anomaly"), ("model",)])
def test_what_the_stream_makes_is_what_is_required(on: tuple[str, ...]) -> None:
    world = busy(alert_on=on)
    report = world.verify()
    assert report.passed, report.as_json()
    made = [orjson.loads(record.value or b"") for record in world.log(world.topics.alerts)]
    assert 10 < len(made) < 120
    assert counts(report) == dict.fromkeys(("required", "found", "rows"), len(made))
    causes = {cause for each in made for cause in each["causes"]}
    assert causes == set(on) - {"anomaly"}  # this model has no threshold for it
    if "rule" in on:
        assert {each["severity"] for each in made} == {"low", "medium", "high"} | (
            {"critical"} if "model" in on else set()
        ) or len({each["severity"] for each in made}) > 2
        assert {rule for each in made for rule in each["rules"]} == {
            "large", "huge", "block-list:terminal",
        }  # fmt: skip


def test_the_reference_agrees_with_the_stream() -> None:
    rng = random.Random(3)
    for _ in range(500):
        card, at = f"card {rng.randrange(10**6)}", rng.randrange(-(10**12), 2 * 10**12)
        window = rng.choice((1_000, 7_000, HOUR, 24 * HOUR))
        losses = tuple(sorted(float(rng.randrange(1, 10**5)) for _ in range(3)))
        causes = tuple(sorted(rng.sample(("model", "rule", "anomaly"), rng.randrange(1, 4))))
        stream, mine = AlertPolicy(causes, window, losses), AlertPolicyAt(causes, window, losses)
        assert AlertPolicyAt.read(stream.named) == mine._replace(
            causes=tuple(stream.named["causes"])
        )
        group = group_of(card, at, window)
        assert (mine.opened_at(card, at), alert_id(card, group.opened_at)) == (
            group.opened_at, group.alert_id,
        )  # fmt: skip
        score, minor = rng.random(), rng.randrange(2 * 10**5)
        assert stream.severity(score, minor, causes) == mine.severity(score, minor, causes)


def test_one_that_is_lacking_is_missing(world: VerifyWorld) -> None:
    records = next(each for each in world.logs[world.topics.alerts.name] if len(each) > 3)
    del records[2]
    report = world.verify()
    assert report.counts["missing"] == 1
    assert whats(report) == {"alert", "row"}  # and its row is one too many
    world.alert_rows = alerts_of(world.settings, world.log(world.topics.alerts))
    report = world.verify()
    assert (report.counts["missing"], report.counts["differing"]) == (1, 0)
    assert whats(report) == {"alert"}


def test_all_of_them_lacking_are_missing(world: VerifyWorld) -> None:
    number = len(world.log(world.topics.alerts))
    for records in world.logs[world.topics.alerts.name]:
        records.clear()
    world.alert_rows = []
    assert world.verify().counts["missing"] == number


def test_one_too_many_differs(world: VerifyWorld) -> None:
    """Of a transaction that calls for none."""
    told = {
        orjson.loads(record.value or b"")["source_offset"]
        for record in world.logs[world.topics.alerts.name][0]
    }
    calm = next(
        fields
        for fields in (
            orjson.loads(record.value or b"")
            for record in world.logs[world.topics.predictions.name][0]
        )
        if fields["source_offset"] not in told
    )
    record = world.logs[world.topics.alerts.name][0][0]
    fields = orjson.loads(record.value or b"") | {"source_offset": calm["source_offset"]}
    world._append(world.topics.alerts.name, 0, record.key, orjson.dumps(fields), record.headers)
    world.alert_rows = alerts_of(world.settings, world.log(world.topics.alerts))
    report = world.verify()
    assert (report.counts["missing"], report.counts["differing"]) == (0, 1)
    assert report.examples[0]["recomputed"] == "none"


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "severity": lambda a: a.update(severity="low" if a["severity"] != "low" else "high"),
    "causes": lambda a: a.update(causes=["anomaly"]),
    "alert_id": lambda a: a.update(alert_id="20200101T000000-" + a["alert_id"][16:]),
    "opened_at": lambda a: a.update(opened_at=a["opened_at"] + 1000),
    "key": lambda a: a.update(key=a["key"] + "0"),
    "rules": lambda a: a.update(rules=[*a["rules"], "other"]),
    "reasons": lambda a: a.update(reasons=["because"]),
    "score": lambda a: a.update(score=0.5),
    "amount_minor": lambda a: a.update(amount_minor=a["amount_minor"] + 1),
    "currency": lambda a: a.update(currency="XXX"),
    "model_version": lambda a: a.update(model_version="another"),
    "terminal_id": lambda a: a.update(terminal_id=None),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_field_is_compared(world: VerifyWorld, what: str) -> None:
    alert(world, 4, CHANGES[what])
    report = world.verify()
    assert report.counts["differing"] == 1
    assert what in whats(report)


def test_keys_and_headers_are_compared(world: VerifyWorld) -> None:
    world.change(world.topics.alerts, 1, key=b"other")
    world.change(world.topics.alerts, 2, headers=[("idempotency-key", b"other")])
    report = world.verify()
    assert report.counts["differing"] == 2
    assert whats(report) == {"record key", "headers"}


def test_repeated_ones_are_identical(world: VerifyWorld) -> None:
    topic = world.topics.alerts.name
    first = world.logs[topic][0][0]
    world._append(topic, 0, first.key, first.value, first.headers)
    report = world.verify()
    assert report.passed
    assert counts(report)["repeated"] == 1
    changed = orjson.dumps(orjson.loads(first.value or b"") | {"reasons": []})
    world._append(topic, 0, first.key, changed, first.headers)
    assert whats(world.verify()) == {"repeated output"}


def test_what_is_no_alert_is_named(world: VerifyWorld) -> None:
    topic = world.topics.alerts.name
    first = orjson.loads(world.logs[topic][0][0].value or b"")
    for value in (b"{}", b"[]", b"", orjson.dumps(first | {"opened_at": "then"})):
        world._append(topic, 0, b"c1", value, ())
    assert world.verify().counts["differing"] == 4


def test_rows_are_compared(world: VerifyWorld) -> None:
    def edit(number: int, **cells: Any) -> None:
        world.alert_rows[number] = world.alert_rows[number]._replace(**cells)

    edit(1, severity="unheard of")
    edit(2, score=0.75)
    edit(3, shard=99)
    del world.alert_rows[5]
    report = world.verify()
    assert (report.counts["missing"], report.counts["differing"]) == (1, 3)
    assert whats(report) == {"severity", "score", "shard", "row"}
    assert report.details["rows_lost"] == 1  # `fraudstream rewrite` writes it again
    world.alert_rows[0] = world.alert_rows[0]._replace(transaction_id="another")
    report = world.verify()  # one too many, and one is missing: both of one source record
    assert (report.counts["missing"], report.counts["differing"]) == (2, 4)


def test_what_is_not_stored_yet_is_pending(world: VerifyWorld) -> None:
    topic = world.topics.alerts.name
    world.done[topic, 0] = 2
    late = {orjson.loads(record.value or b"")["key"] for record in world.logs[topic][0][2:]}
    world.alert_rows = [
        row
        for row in world.alert_rows
        if f"{row.alert_id}-{row.source_partition}-{row.source_offset}" not in late
    ]
    report = world.verify()
    assert (report.counts["pending"], report.counts["missing"]) == (len(late), 0)


def test_what_retention_and_time_to_live_took_is_unverifiable() -> None:
    world = busy()
    for number, records in enumerate(world.logs[world.topics.alerts.name]):
        world.begins[world.topics.alerts.name, number] = len(records)
    report = world.verify()
    assert (report.counts["missing"], report.counts["differing"]) == (0, 0)
    assert report.counts["unverifiable"] == counts(report)["required"]
    world = busy()
    world.restart(prediction_ttl=HOUR)
    world.alert_rows, world.rows = [], []
    report = world.verify()
    assert report.counts["missing"] == 0
    assert report.counts["unverifiable"] >= counts(report)["found"]


@pytest.mark.parametrize(
    "changed",
    [
        {"alert_window": 2 * HOUR},
        {"alert_losses": (1.0, 2.0, 3.0)},
        {"alert_on": ("rule",)},
        {"alert_on": ()},
    ],
)
def test_each_alert_is_compared_under_the_settings_that_made_it(changed: dict[str, Any]) -> None:
    world = busy()
    before = len(world.log(world.topics.alerts))
    topic = world.topics.alerts.name
    first = world.logs[topic][0][0]
    world._append(topic, 0, first.key, first.value, first.headers)  # twice, as after a kill
    world.restart(**changed)
    send(world, range(120, 200))
    report = world.verify()
    assert report.passed, report.as_json()
    assert (counts(report)["other_settings"], counts(report)["repeated"]) == (before, 1)
    assert (counts(report)["found"] > before) is bool(changed.get("alert_on", True))
    # and one that is lacking since is missed
    if counts(report)["found"] > before:
        newest = max(range(2), key=lambda number: world.logs[topic][number][-1].timestamp)
        world.logs[topic][newest].pop()
        assert world.verify().counts["missing"] == 1


def test_other_settings_are_no_excuse_for_what_they_did_not_change() -> None:
    """A policy that an alert names is believed, what else it says is not."""
    world = busy()
    world.restart(alert_window=2 * HOUR)
    alert(world, 3, lambda fields: fields.update(score=0.999))
    assert "score" in whats(world.verify())


def test_alerts_that_were_off_are_not_missed_from_when_the_settings_changed() -> None:
    world = busy(alert_on=("rule",))
    world.restart(alert_on=("model", "rule"))
    report = world.verify()
    assert report.passed, report.as_json()
    assert counts(report)["before"] > 0


def test_alerts_that_were_off_altogether_are_not_missed_if_verify_is_told() -> None:
    world = busy(alert_on=())
    world.restart(alert_on=("model", "rule"))
    assert world.verify().counts["missing"] > 10  # nothing says that they were off
    world.clock_ms += 1
    began = world.clock_ms
    send(world, range(120, 200))
    assert not world.verify().passed
    report = world.verify(alerts_from_ms=began)
    assert report.passed, report.as_json()
    assert min(counts(report)["before"], counts(report)["required"]) > 5


def test_predictions_of_before_there_were_alerts_need_none(world: VerifyWorld) -> None:
    topics = world.topics
    old = VerifyWorld(threshold=0.02)
    send(old, range(60))
    for spec in (topics.predictions,):
        for records in old.logs[spec.name]:
            records[:] = [
                replace(record, value=orjson.dumps(_without_action(record.value)))
                for record in records
            ]
    for records in old.logs[topics.alerts.name]:
        records.clear()
    old.alert_rows = []
    assert old.verify().counts["missing"] == 0


def _without_action(value: bytes | None) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(value or b"")
    return {name: each for name, each in fields.items() if name not in ("action", "rules")}


def test_other_deployments_are_left_out(world: VerifyWorld) -> None:
    topic = world.topics.alerts.name
    record = world.logs[topic][0][0]
    theirs = orjson.loads(record.value or b"") | {"scored_by": "another", "score": 0.1}
    world._append(topic, 0, record.key, orjson.dumps(theirs), record.headers)
    report = world.verify()
    assert report.passed
    assert report.details["of_other_deployments"] == 1
