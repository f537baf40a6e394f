"""`verify` against a deployment in memory: what is right passes, and each kind of damage is found."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression

from app.domain.changes import ModelChange, ThresholdChange
from app.ops.verification.totals import COUNTS, PLACES, Report
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from app.wire.dead_letters import loss_letter
from app.wire.enriched_records import decode_enriched, encode_item, enriched_message
from models.artifact import save_artifact
from models.artifact_folders import artifact_folders
from tests.builders import T0, tx, tx_bytes
from tests.verify_world import BASIC, Record, VerifyWorld, rows_of

HOUR = 3_600_000
DAY = 24 * HOUR


def card_in(world: VerifyWorld, partition: int) -> str:
    return next(f"k{n}" for n in range(99) if world.home(f"k{n}".encode()) == partition)


def busy(**settings: Any) -> VerifyWorld:
    """A few cards and terminals with everything that can happen to a record, already run."""
    world = VerifyWorld(**settings)
    numbers = random.Random(1)
    for number in range(120):
        card = f"c{numbers.randrange(4)}"
        reused = number > 10 and numbers.random() < 0.1
        value = tx_bytes(
            numbers.randrange(number) if reused else number,
            card=card,
            terminal=numbers.choice(["t1", "t2", None]),
            at=number * HOUR // 4 - numbers.randrange(2 * DAY) - 10 * DAY,
            amount=numbers.randrange(100_000) / 100,
            note=number,
        )
        wrong = (1 - world.home(card.encode())) if numbers.random() < 0.1 else None
        world.send(value, card.encode(), partition=wrong)
        if numbers.random() < 0.1:
            world.send(value, card.encode())  # repeated
    world.send(b"{}", b"c1")
    world.send(b"nonsense", None)
    world.send(tx_bytes("refund", at=-9 * DAY, amount=-1), b"c1")
    world.send(tx_bytes("future", at=DAY), b"c1")
    world.run()
    return world


@pytest.fixture
def world() -> VerifyWorld:
    return busy()


def whats(report: Report) -> set[str]:
    return {example["what"] for example in report.examples}


def scored_again(*, names: bool, again: bool = True) -> VerifyWorld:
    """A deployment that goes on where another one, with other features, has scored everything.

    Args:
        names: whether the other one's predictions say who made them; those of old releases do not.
        again: whether this one has scored anything by now.
    """
    before = busy(app_id="before")
    world = VerifyWorld(app_id="after", features="basic,handbook" if again else "basic")
    for topic in (
        before.topics.transactions,
        before.topics.predictions,
        before.topics.late_transactions,
    ):
        world.logs[topic.name] = [list(records) for records in before.logs[topic.name]]
    if not names:
        for topic in (before.topics.predictions, before.topics.late_transactions):
            for records in world.logs[topic.name]:
                records[:] = [
                    replace(one, value=re.sub(rb',"scored_by":"[^"]*"', b"", one.value or b""))
                    for one in records
                ]
    world.clock_ms = before.clock_ms
    if again:
        world.run()
    return world


@pytest.mark.parametrize("names", [True, False])
def test_predictions_of_another_deployment_are_left_out(names: bool) -> None:
    world = scored_again(names=names)
    report = world.verify()
    assert report.passed, report.as_json()
    others = report.details["of_other_deployments"]
    assert others >= report.counts["scored"] + report.counts["late"] > 100
    assert report.details["repeated_outputs"] == 0
    # what is ours is looked at as ever
    own = len(world.log(world.topics.predictions)) - 1
    prediction(world, own, lambda fields: fields.update(score=nudged(fields["score"])))
    assert not world.verify().passed


def test_predictions_that_name_nobody_are_ours() -> None:
    world = scored_again(names=False, again=False)
    world.rows = rows_of(world.settings, world.log(world.topics.predictions))
    report = world.verify()
    assert report.details["of_other_deployments"] == 0
    assert report.counts["scored"] + report.counts["late"] > 100
    assert "score" not in whats(report)


def nudged(value: float) -> float:
    """The neighbouring double: the smallest difference there is."""
    return math.nextafter(value, math.inf)


def prediction(world: VerifyWorld, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the n-th prediction, and its row with it."""
    record = world.log(world.topics.predictions)[number]
    fields = orjson.loads(record.value or b"")
    change(fields)
    world.change(world.topics.predictions, number, value=orjson.dumps(fields))
    world.rows = rows_of(world.settings, world.log(world.topics.predictions))


def labelled() -> VerifyWorld:
    """Every feature set; labels come hours after their transactions, to terminals with more to come."""
    world = VerifyWorld(
        features="basic,handbook,engineered", label_delay=6 * HOUR, max_event_skew=HOUR
    )
    numbers = random.Random(2)
    told: list[dict[str, Any]] = []
    for number in range(150):
        card = f"c{numbers.randrange(4)}"
        at = number * HOUR // 2 - numbers.randrange(3 * HOUR) - 10 * DAY
        amount = numbers.choice([5, 7.5, 90])
        fields = tx(number, card=card, terminal=f"t{number % 3}", at=at, amount=amount)
        world.send(orjson.dumps(fields), card.encode())
        told.append(fields)
        if number % 10 == 9:
            world.run()
            for one in told:
                if numbers.random() < 0.8:
                    label = {key: one[key] for key in ("transaction_id", "card_id", "terminal_id")}
                    label |= {"event_time": one["event_time"], "labelled_at": T0 + number}
                    world.label({**label, "is_fraud": number // 50 == 1})
            told.clear()
    world.run()
    return world


def test_terminal_features_with_labels_are_recomputed() -> None:
    world = labelled()
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.counts["differing"] == 0
    predictions = [orjson.loads(r.value or b"") for r in world.log(world.topics.predictions)]
    for name in ("terminal_risk_1d", "terminal_fraud_streak", "card_high_count_14d"):
        assert any(fields["features"][name] for fields in predictions), name
    for name in ("terminal_risk_30d", "terminal_genuine_age", "amount_deviation"):
        world = labelled()

        def change(fields: dict[str, Any], name: str = name) -> None:
            fields["features"][name] = nudged(fields["features"][name])

        prediction(world, 70, change)
        assert name in whats(world.verify())


class TestLost:
    """What was deleted before it was read is no success, however right the rest is."""

    def accounted(self, world: VerifyWorld, begin: int, end: int) -> None:
        key, value, headers = loss_letter(world.topics.transactions.name, 0, begin, end)
        world._append(world.topics.dead_letters.name, 0, key, value, headers)

    def test_what_the_workers_have_accounted_for(self, world: VerifyWorld) -> None:
        # twice from one offset on: a worker died, and retention had gone on when the next one came
        for end in (3, 5, 5):
            self.accounted(world, 0, end)
        world.begins[world.topics.transactions.name, 0] = 5
        report = world.verify()
        assert report.counts["lost"] == 5
        topic = world.topics.transactions.name
        assert report.details["lost_ranges"] == [
            {"topic": topic, "partition": 0, "offset": 0, "until": 5}
        ]
        assert not report.passed

    def test_what_no_worker_has_noticed_yet(self, world: VerifyWorld) -> None:
        topic = world.topics.predictions.name
        world.done[topic, 1] = 2
        world.begins[topic, 1] = 6
        report = world.verify()
        assert report.details["lost_ranges"] == [
            {"topic": topic, "partition": 1, "offset": 2, "until": 6}
        ]
        assert not report.passed

    def test_accounts_alone_leave_the_rest_consistent(self, world: VerifyWorld) -> None:
        self.accounted(world, 1_000_000, 1_000_004)
        report = world.verify()
        assert (report.consistent, report.passed, report.counts["lost"]) == (True, False, 4)


class TestReusedIds:
    """The same id on the same card with another time or amount: scored, flagged, kept beside the first."""

    @pytest.fixture
    def reused(self) -> VerifyWorld:
        world = VerifyWorld()
        for fields in (
            {"amount": 10.0},
            {"amount": 9_000.0},  # the same moment: both have the key of one row of `predictions`
            {"amount": 9_000.0},
            {"amount": 9_000.0, "at": -HOUR, "terminal": "t2"},
            {"amount": 10.0},
            {"amount": 5.0, "at": -HOUR, "number": 2},
        ):
            world.send(tx_bytes(**{"at": -2 * HOUR, **fields}), b"c1")
        world.run()
        return world

    def test_each_has_one_place(self, reused: VerifyWorld) -> None:
        report = reused.verify()
        assert report.passed, report.as_json()
        counted = {name: count for name, count in report.counts.items() if count}
        assert counted == {"read": 6, "scored": 2, "conflicting": 2, "duplicate": 2}
        assert len(reused.rows) == 4
        predictions = [orjson.loads(r.value or b"") for r in reused.log(reused.topics.predictions)]
        told = [
            (
                one["amount"],
                one["flags"],
                one["features"]["card_count_1d"],
                one["features"]["terminal_count_1d"],
            )
            for one in sorted(predictions, key=lambda one: one["source_offset"])
        ]
        assert told == [
            (10.0, [], 1.0, 1.0),
            (9_000.0, ["conflicting"], 2.0, 2.0),  # it sees the first ...
            (9_000.0, ["conflicting"], 2.0, 1.0),
            (5.0, [], 2.0, 2.0),  # ... and nobody sees it
        ]

    def test_the_record_of_a_repetition_tells_the_amount(self, reused: VerifyWorld) -> None:
        told = [orjson.loads(r.value or b"") for r in reused.log(reused.topics.duplicates)]
        assert [(one["amount_minor"], one["currency"], one["terminal_id"]) for one in told] == [
            (900_000, "EUR", "t1"),
            (1_000, "EUR", "t1"),
        ]

    @pytest.mark.parametrize("amount", [10.0, 9_000.0])
    def test_a_row_that_is_missing_is_found(self, reused: VerifyWorld, amount: float) -> None:
        minor = round(amount * 100)
        gone = next(row for row in reused.rows if row.amount_minor == minor)
        reused.rows.remove(gone)
        report = reused.verify()
        assert report.counts["missing"] == 1
        assert whats(report) == {"row"}

    def test_a_conflicting_one_that_is_not_flagged_is_found(self, reused: VerifyWorld) -> None:
        predictions = [orjson.loads(r.value or b"") for r in reused.log(reused.topics.predictions)]
        number = next(n for n, one in enumerate(predictions) if one["flags"])
        prediction(reused, number, lambda fields: fields["flags"].clear())
        assert "flags" in whats(reused.verify())

    @pytest.mark.parametrize("field", ["amount_minor", "terminal_id"])
    def test_a_wrong_record_of_a_repetition_is_found(self, reused: VerifyWorld, field: str) -> None:
        record = reused.log(reused.topics.duplicates)[0]
        fields = orjson.loads(record.value or b"") | {field: 7}
        reused.change(reused.topics.duplicates, 0, value=orjson.dumps(fields))
        assert "terminal_id and amount_minor" in whats(reused.verify())


class TestRight:
    def test_everything_is_accounted_for(self, world: VerifyWorld) -> None:
        report = world.verify()
        counts = report.counts
        assert report.passed, report.as_json()
        assert report.identity
        assert counts["read"] == len(world.log(world.topics.transactions))
        scored = counts["scored"] + counts["late"] + counts["conflicting"]
        assert scored == len(world.log(world.topics.predictions))
        assert len(world.rows) == report.details["rows"]
        for place in PLACES:
            assert counts[place] > 0, place
        assert report.details["scores_recomputed"] == scored
        assert report.examples == []

    def test_json_begins_with_the_promised_keys(self, world: VerifyWorld) -> None:
        assert tuple(world.verify().as_json())[: len(COUNTS)] == COUNTS

    def test_nothing_at_all_is_no_success(self) -> None:
        world = VerifyWorld()
        world.run()
        report = world.verify()
        assert (report.passed, report.consistent, report.counts["read"]) == (False, False, 0)

    @pytest.mark.parametrize("stage", ["transactions", "enriched"])
    @pytest.mark.parametrize("partition", [0, 1])
    def test_outputs_repeated_by_a_replay_change_nothing(self, stage: str, partition: int) -> None:
        # a cap that keeps everything: what is sent on twice is then a duplicate the second time
        world = busy(max_entries_per_key=1_000)
        before = world.verify().counts
        world.replay(getattr(world.topics, stage), partition)
        world.clock_ms += 1_000
        world.run(block=3)
        report = world.verify()
        assert report.passed, report.as_json()
        assert {**report.counts, "read": 0, "moved": 0, "duplicate": 0} == {
            **before, "read": 0, "moved": 0, "duplicate": 0,
        }  # fmt: skip
        if stage == "enriched":
            assert report.details["repeated_outputs"] > 0

    def test_moved_records_may_be_dead_by_setting(self) -> None:
        report = busy(moved="dead").verify()
        assert report.passed, report.as_json()
        assert report.counts["moved"] == 0
        assert report.counts["dead"] > 3

    def test_what_was_refused_under_earlier_rules_stays_refused(self) -> None:
        """A mended setting: the letter stands, and the record that was sent back is scored."""
        world = busy()
        before = world.verify().counts
        early = next(
            r for r in world.log(world.topics.transactions) if b"future" in (r.value or b"")
        )
        world.restart(max_future_skew=3 * DAY)
        world.send(early.value, early.key, headers=[("redriven", b"transactions/0/1")])
        world.send(early.value, early.key, headers=[("redriven", b"transactions/0/1")])
        world.run()
        report = world.verify()
        assert report.passed, report.as_json()
        assert report.details["dead_by_earlier_rules"] == 1
        for place, more in (("dead", 0), ("scored", 1), ("duplicate", 1), ("read", 2)):
            assert report.counts[place] == before[place] + more

    def test_a_reason_that_no_rule_decides_is_no_excuse(self) -> None:
        world = busy()
        letters = world.log(world.topics.dead_letters)
        number = next(
            n for n, r in enumerate(letters) if dict(r.headers)["reason"] == b"in_the_future"
        )
        good = next(r for r in world.log(world.topics.transactions) if b"tx-5" in (r.value or b""))
        partition = world.home(good.key or b"")
        world.change(
            world.topics.dead_letters,
            number,
            key=b"transactions/%d/%d" % (partition, good.offset),
            headers=(("reason", b"negative_amount"),),
        )
        assert not world.verify().passed

    def test_fields_of_every_kind_are_passed_on(self) -> None:
        world = VerifyWorld()
        for number, fields in enumerate([
            {"schema_version": 1, "currency": "EUR"},
            {"currency": "USD", "converted_amount": "7.50"},
            {"score": 3, "input_score": 4, "scored_at": 5},
            {"nested": {"scored_at": 1, "ü": [1, 2.5, None]}},
            {"amount": "12.30", "event_time": "2023-11-14T23:13:20+02:00"},
        ]):  # fmt: skip
            world.send(tx_bytes(number, **fields), b"c1")
        world.run()
        report = world.verify()
        assert report.passed, report.as_json()
        assert report.counts["scored"] == 5

    def test_a_header_that_looks_like_ours_moves_nothing(self) -> None:
        world = VerifyWorld()
        first = world.send(tx_bytes(1), b"c1")
        origin = f"transactions/{first[0]}/{first[1]}".encode()
        world.send(tx_bytes(2), b"c1", headers=[("origin", origin)])
        many = b"9" * 5_000  # more digits than int() takes
        for number, forged in enumerate(
            (b"%b/1" % many, b"0/%b" % many, b"0/1\xff", b"99/1", b"0/")
        ):
            headers = [("origin", b"transactions/" + forged), ("", b"")]
            world.send(tx_bytes(10 + number), b"c1", headers=headers)
        wrong = 1 - world.home(b"c1")
        world.send(tx_bytes(3), b"c1", partition=wrong, headers=[("origin", b"elsewhere")])
        world.run()
        report = world.verify()
        assert report.passed, report.as_json()
        assert report.counts["moved"] == 1

    def test_a_record_too_large_is_cut(self) -> None:
        world = VerifyWorld(max_message_bytes=524_288)
        world.send(tx_bytes(1, note="x" * 530_000), b"c1")
        world.run()
        assert world.verify().passed
        letter = world.log(world.topics.dead_letters)[0]
        world.change(world.topics.dead_letters, 0, headers=[
            (name, b"0" * 64 if name == "sha256" else value) for name, value in letter.headers
        ])  # fmt: skip
        assert whats(world.verify()) == {"value"}

    def test_the_same_key_twice_is_one_row(self) -> None:
        # the entry leaves at once (it is older than all that is kept), so its repetition is unknown
        world = VerifyWorld()
        world.send(tx_bytes(1), b"c1")
        for _ in range(2):
            world.send(tx_bytes(2, at=-40 * DAY), b"c1")
        world.run()
        report = world.verify()
        assert report.passed, report.as_json()
        assert (report.counts["scored"], report.counts["late"], len(world.rows)) == (1, 2, 2)


class TestDifferent:
    @pytest.mark.parametrize(
        "name", ["amount", "seconds_since_last", "card_avg_amount_7d", "terminal_count_30d"]
    )
    def test_the_last_bit_of_a_feature(self, world: VerifyWorld, name: str) -> None:
        def change(fields: dict[str, Any]) -> None:
            fields["features"][name] = nudged(fields["features"][name])

        prediction(world, 40, change)
        report = world.verify()
        assert report.counts["differing"] == 1
        assert not report.passed
        assert name in whats(report)
        example = report.examples[0]
        assert example["card"].startswith("c")
        assert example["stored"] == nudged(example["recomputed"])

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("score", lambda f: f.update(score=nudged(f["score"]))),
            ("is_fraud", lambda f: f.update(is_fraud=not f["is_fraud"])),
            ("flags", lambda f: f.update(flags=["inexact:card_1h"])),
            ("flags", lambda f: f.update(flags=["never heard of"])),
            ("received_at", lambda f: f.update(received_at=f["received_at"] + 1)),
            ("input fields", lambda f: f.update(note="other")),
            ("terminal_id and amount_minor", lambda f: f.update(amount_minor=1)),
            ("feature names", lambda f: f["features"].pop("amount")),
            ("model", lambda f: f.update(model_version="other@7")),
            ("source", lambda f: f.update(source_topic="another")),
        ],
    )
    def test_a_prediction(
        self, world: VerifyWorld, what: str, change: Callable[[dict[str, Any]], Any]
    ) -> None:
        prediction(world, 30, change)
        report = world.verify()
        assert what in whats(report), report.as_json()
        assert report.counts["differing"] >= 1

    def test_a_prediction_of_what_is_dead(self, world: VerifyWorld) -> None:
        letter = world.log(world.topics.dead_letters)[0]
        _, partition, offset = (letter.key or b"").decode().split("/")
        position = {"source_partition": int(partition), "source_offset": int(offset)}
        prediction(world, 30, lambda fields: fields.update(position))
        report = world.verify()
        assert {"fate", "places"} <= whats(report)
        assert report.counts["missing"] == 1

    def test_reasons(self) -> None:
        world = VerifyWorld(reasons_from=0)
        world.send(tx_bytes(1, amount=900), b"c1")
        world.run()
        assert world.verify().details["reasons_recomputed"] == 1
        prediction(world, 0, lambda fields: fields.update(reasons=["because"]))
        assert "reasons" in whats(world.verify())

    def test_an_unknown_model_leaves_only_the_decision_to_check(self, world: VerifyWorld) -> None:
        prediction(world, 3, lambda fields: fields.update(model_hash="0" * 16))
        report = world.verify()
        assert report.passed, report.as_json()
        assert list(report.details["models_missing"]) == ["0" * 16]

    @pytest.mark.parametrize(
        ("what", "column", "value"),
        [
            ("score", "score", 0.5),
            ("score", "score", None),
            ("threshold", "threshold", 0.999),
            ("is_fraud", "is_fraud", None),
            ("model", "model_hash", "other"),
            ("anomaly_score", "anomaly_score", 0.25),
            ("reasons", "reasons", b"\0\0\0\1\0\0\0\1x"),
            ("flags", "flags", b"\0\0\0\1\0\0\0\4late"),
            ("schema_version and extra", "extra", '{"note":"changed"}'),
            ("schema_version and extra", "schema_version", 2),
            ("month", "month", "1999-01"),
            ("currency", "currency", "USD"),
            ("amount", "amount", b"\0\0\0\2\1"),
            ("amount", "amount", b"\0\0\0\3\1"),
            ("amount", "amount", None),
            ("received_at", "received_at", None),
            ("terminal_id and amount_minor", "amount_minor", None),
            ("source", "source_partition", None),
            ("source", "source_offset", None),
            ("terminal_id and amount_minor", "terminal_id", "other"),
            ("key", "transaction_id", "other"),
            ("feature names", "features", None),
            ("feature names", "features", b"\0\0\0\0"),
            ("received_at", "received_at", 1),
            ("scored_at", "scored_at", None),
            ("source", "source_topic", "another"),
        ],
    )
    def test_a_row(self, world: VerifyWorld, what: str, column: str, value: Any) -> None:
        number = next(n for n, row in enumerate(world.rows) if row.flags == b"\0\0\0\0")
        world.rows[number] = world.rows[number]._replace(**{column: value})
        report = world.verify()
        assert what in whats(report), report.as_json()
        assert report.counts["differing"] >= 1
        assert not report.passed

    def test_the_last_bit_of_a_feature_in_a_row(self, world: VerifyWorld) -> None:
        raw = world.rows[9].features
        assert raw is not None
        world.rows[9] = world.rows[9]._replace(features=raw[:-1] + bytes([raw[-1] ^ 1]))
        report = world.verify()
        assert whats(report) == {"terminal_count_7d"}  # the last by name
        assert report.counts["differing"] == 1

    def test_a_repetition_that_says_something_else(self, world: VerifyWorld) -> None:
        records = world.logs[world.topics.predictions.name][0]
        fields = orjson.loads(records[0].value or b"")
        value = orjson.dumps({**fields, "score": 0.123})
        records.append(replace(records[0], offset=len(records), value=value))
        assert whats(world.verify()) == {"repeated output"}

    def test_a_record_in_two_places(self, world: VerifyWorld) -> None:
        fields = orjson.loads(world.log(world.topics.predictions)[0].value or b"")
        names = ("transaction_id", "card_id", "event_time_ms", "source_topic", "source_partition",
                 "source_offset")  # fmt: skip
        world.logs[world.topics.duplicates.name][0].append(
            replace(
                world.log(world.topics.predictions)[0],
                offset=len(world.logs[world.topics.duplicates.name][0]),
                value=orjson.dumps({name: fields[name] for name in names}),
            )
        )
        report = world.verify()
        assert {"fate", "places"} <= whats(report)
        assert not report.identity

    @pytest.mark.parametrize(
        "topic",
        ["enriched", "predictions", "late_transactions", "dead_letters", "duplicates"],
    )
    @pytest.mark.parametrize("value", [None, b"", b"garbage", b"[]", b"{}", b"\x94\1\2\3\4"])
    def test_what_nobody_of_ours_wrote(self, topic: str, value: bytes | None) -> None:
        world = VerifyWorld()
        world.send(tx_bytes(1), b"c1")
        world.run()
        records = world.logs[getattr(world.topics, topic).name][0]
        records.append(Record(len(records), T0, b"key", value))
        report = world.verify()
        assert (report.counts["differing"], report.details["strays"]) == (1, 1)
        assert report.counts["missing"] == 0

    def test_late_copies(self, world: VerifyWorld) -> None:
        value = world.log(world.topics.late_transactions)[0].value or b""
        changed = value.replace(b'"score":0', b'"score":1', 1)
        world.change(world.topics.late_transactions, 0, value=changed)
        assert whats(world.verify()) == {"copy"}

    def test_dead_letters(self, world: VerifyWorld) -> None:
        letter = world.log(world.topics.dead_letters)[0]
        headers = [(n, b"typo" if n == "reason" else v) for n, v in letter.headers]
        world.change(world.topics.dead_letters, 0, headers=headers, value=b"other")
        assert whats(world.verify()) == {"reason", "value"}

    def test_forwarded_copies(self, world: VerifyWorld) -> None:
        number = next(
            n for n, record in enumerate(world.log(world.topics.transactions)) if record.headers
        )
        original = world.log(world.topics.transactions)[number].value or b""
        world.change(world.topics.transactions, number, value=original + b" ")
        assert "forwarded copy" in whats(world.verify())

    @pytest.mark.parametrize(
        ("what", "changes"),
        [
            ("card_count_1h", {"features": [0.0] * 13}),
            ("number of features", {"features": [0.0] * 12}),
            ("flags", {"flags": ["inexact:card_1h"]}),
            ("transaction", {"event_time_ms": T0 + 1}),
            ("terminal and amount_minor", {"minor": 77}),
            ("partition", {"terminal_id": "t1"}),
        ],
    )
    def test_enriched(self, what: str, changes: dict[str, Any]) -> None:
        world = VerifyWorld()
        stays = next(
            f"x{n}" for n in range(99) if world.home(f"x{n}".encode()) != world.home(b"t1")
        )
        world.send(tx_bytes(1, terminal=stays), b"c1")
        world.run()
        topic = world.topics.enriched
        record = world.log(topic)[0]
        batch = decode_enriched(record.value or b"")
        for name, value in changes.items():
            setattr(batch.items[0], name, value)
        items = [encode_item(item) for item in batch.items]
        world.change(topic, 0, value=enriched_message(batch.topic, batch.partition, items))
        report = world.verify()
        assert any(e["what"] == what and e["where"] == topic.name for e in report.examples)
        assert report.counts["differing"] == 1


class TestMissing:
    @pytest.mark.parametrize(
        ("topic", "what"),
        [
            ("dead_letters", "output"),
            ("duplicates", "output"),
            ("late_transactions", "copy"),
        ],
    )
    def test_an_output(self, world: VerifyWorld, topic: str, what: str) -> None:
        log = world.logs[getattr(world.topics, topic).name]
        next(records for records in log if records).pop()
        report = world.verify()
        assert (report.counts["missing"], report.counts["differing"]) == (1, 0)
        assert whats(report) == {what}
        assert report.identity == (what == "copy")

    def test_a_prediction_and_its_row(self, world: VerifyWorld) -> None:
        world.logs[world.topics.predictions.name][0].pop()
        world.rows = rows_of(world.settings, world.log(world.topics.predictions))
        report = world.verify()
        assert report.counts["missing"] == 1
        assert not report.identity

    def test_a_row(self, world: VerifyWorld) -> None:
        world.rows.pop()
        report = world.verify()
        assert (report.counts["missing"], report.counts["differing"]) == (1, 0)
        assert report.examples[0]["where"] == "cassandra"
        assert report.identity

    def test_a_prediction_that_was_never_enriched(self, world: VerifyWorld) -> None:
        world.logs[world.topics.enriched.name][0].clear()
        assert "item" in whats(world.verify())

    def test_examples_are_limited(self, world: VerifyWorld) -> None:
        missing = len(world.log(world.topics.predictions))
        world.rows.clear()
        report = world.verify(examples=3)
        assert len(report.examples) == 3
        assert report.counts["missing"] == missing


class TestPending:
    def test_what_no_worker_has_read(self, world: VerifyWorld) -> None:
        before = world.verify().counts
        for number in range(5):
            world.send(tx_bytes(f"new {number}", card="c1"), b"c1")
        partition = world.home(b"c1")
        name = world.topics.transactions.name
        world.done[name, partition] = len(world.logs[name][partition]) - 5
        counts = world.verify().counts
        assert counts == {**before, "read": before["read"] + 5, "pending": 5}

    def test_what_the_second_stage_has_not_done(self, world: VerifyWorld) -> None:
        card = card_in(world, 0)
        log = world.logs[world.topics.predictions.name][0]
        world.send(tx_bytes("new", card=card, terminal=None), card.encode())
        world.run()
        log.pop()
        world.rows = rows_of(world.settings, world.log(world.topics.predictions))
        name = world.topics.enriched.name
        world.done[name, 0] = len(world.logs[name][0]) - 1
        assert (world.verify().counts["pending"], world.verify().counts["missing"]) == (1, 0)

    def test_what_the_sink_has_not_stored(self, world: VerifyWorld) -> None:
        name = world.topics.predictions.name
        last = orjson.loads(world.logs[name][0][-1].value or b"")
        world.rows = [
            row
            for row in world.rows
            if (row.source_partition, row.source_offset) != (0, last["source_offset"])
        ]
        world.done[name, 0] = len(world.logs[name][0]) - 1
        counts = world.verify().counts
        assert (counts["pending"], counts["missing"]) == (1, 0)

    def test_done_but_not_committed_is_done(self, world: VerifyWorld) -> None:
        for topic in (world.topics.transactions, world.topics.enriched, world.topics.predictions):
            for number in range(2):
                world.done[topic.name, number] = 0
        assert world.verify().passed


class TestUnverifiable:
    def deploy(self, **settings: Any) -> VerifyWorld:
        """A card a day for 80 days, sent when it happened."""
        world = VerifyWorld(**settings)
        for day in range(80):
            world.clock_ms = T0 + day * DAY
            for card in (card_in(world, 0), card_in(world, 1)):
                world.send(tx_bytes(f"{card} {day}", card=card, at=day * DAY), card.encode())
            world.run(sink=day == 79)
        assert world.verify().passed
        return world

    @pytest.mark.parametrize("topic", ["transactions", "enriched"])
    def test_what_retention_has_cut_off_is_not_held_against_the_rest(self, topic: str) -> None:
        world = self.deploy()
        name = getattr(world.topics, topic).name
        both = [0, 1] if topic == "transactions" else [world.home(b"t1")]
        for number in both:
            world.begins[name, number] = 20
        report = world.verify()
        assert report.passed, report.as_json()
        # 31 days of the log must be there before a window of 30 days and a day of lateness is certain
        assert 0 < report.counts["unverifiable"] < 160
        prediction(world, 79, lambda fields: fields["features"].update(card_count_30d=1.0))
        assert world.verify().counts["differing"] == 1

    @pytest.mark.parametrize("topic", ["predictions", "late_transactions"])
    def test_deleted_outputs(self, topic: str) -> None:
        world = self.deploy()
        world.begins[getattr(world.topics, topic).name, 0] = 5
        report = world.verify()
        assert report.passed, report.as_json()

    def test_deleted_predictions_without_rows(self) -> None:
        world = self.deploy()
        world.begins[world.topics.predictions.name, 0] = 5
        world.rows = [row for row in world.rows if row.source_partition or row.source_offset >= 5]
        report = world.verify()
        assert (report.counts["unverifiable"], report.counts["missing"]) == (5, 0)
        assert not report.identity

    def test_a_prediction_younger_than_what_is_left_is_missing(self) -> None:
        world = self.deploy()
        world.begins[world.topics.predictions.name, 0] = 5
        log = world.logs[world.topics.predictions.name][0]
        gone = orjson.loads(log.pop().value or b"")
        world.rows = [row for row in world.rows if row.transaction_id != gone["transaction_id"]]
        assert world.verify().counts["missing"] == 1

    def test_rows_whose_time_to_live_is_over(self) -> None:
        world = self.deploy(prediction_ttl="30d")  # scored in 2023
        world.rows = world.rows[3:]
        report = world.verify()
        assert (report.counts["unverifiable"], report.counts["missing"]) == (3, 0)
        assert report.passed

    def test_rows_older_than_the_log(self) -> None:
        world = self.deploy()
        world.begins[world.topics.transactions.name, 0] = 80
        report = world.verify()
        assert report.counts["read"] == 80
        assert report.counts["unverifiable"] >= 80
        assert report.counts["differing"] == 0


def test_texts_are_compared_not_shown() -> None:
    """Findings keep what is needed to look, in the order in which it was found."""
    world = VerifyWorld()
    world.send(orjson.dumps({**tx(1), "card_id": "c9"}), b"c9")
    world.run()
    prediction(world, 0, lambda fields: fields["features"].update(amount=1.0))
    (first, *_) = world.verify().examples
    partition = world.home(b"c9")
    assert first == {
        "source": f"transactions/{partition}/0",
        "card": "c9",
        "where": "predictions",
        "what": "amount",
        "stored": 1.0,
        "recomputed": 10.0,
    }


class TestAnomalyScores:
    """A model with an isolation forest: its scores and its flag are checked like everything else."""

    @pytest.fixture
    def odd_world(self, tmp_path: Path) -> VerifyWorld:
        catalogue = catalogue_of(load_settings(BASIC))
        rows = np.random.default_rng(1).lognormal(2, 1, (400, len(catalogue.names)))
        model = LogisticRegression(max_iter=2_000).fit(rows, rows[:, 0] > 15)
        isolation = IsolationForest(n_estimators=8, random_state=1).fit(rows[:, [0, 5]])
        save_artifact(
            tmp_path / "odd",
            model,
            isolation=isolation,
            name="odd",
            version=1,
            kind="logistic",
            features=catalogue.names,
            feature_schema=catalogue.schema,
            usual=rows[0].tolist(),
            threshold=0.5,
            trained={},
            metrics={},
            anomaly={
                "features": [catalogue.names[0], catalogue.names[5]],
                "feature_schema": catalogue.schema,
                "threshold": 0.55,
            },
        )
        return busy(model=str(tmp_path / "odd"))

    def test_those_of_the_stream_pass(self, odd_world: VerifyWorld) -> None:
        predictions = [
            orjson.loads(each.value or b"") for each in odd_world.log(odd_world.topics.predictions)
        ]
        assert all(0 < each["anomaly_score"] < 1 for each in predictions)
        flagged = [each["anomaly_score"] for each in predictions if "anomaly" in each["flags"]]
        assert min(flagged) >= 0.55
        assert 0 < len(flagged) < len(predictions)
        report = odd_world.verify()
        assert report.passed, report.as_json()

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("anomaly_score", lambda f: f.update(anomaly_score=nudged(f["anomaly_score"]))),
            ("anomaly_score", lambda f: f.update(anomaly_score=None)),
            ("flags", lambda f: f["flags"].append("anomaly")),
        ],
    )
    def test_others_are_found(
        self, odd_world: VerifyWorld, what: str, change: Callable[[dict[str, Any]], Any]
    ) -> None:
        records = odd_world.log(odd_world.topics.predictions)
        usual = next(n for n, each in enumerate(records) if b'"anomaly"' not in (each.value or b""))
        prediction(odd_world, usual, change)
        report = odd_world.verify()
        assert what in whats(report), report.as_json()
        assert whats(report) <= {what, "copy"}  # of a late one, the copy differs from it now

    def test_a_missing_flag_is_found(self, odd_world: VerifyWorld) -> None:
        records = odd_world.log(odd_world.topics.predictions)
        odd = next(n for n, each in enumerate(records) if b'"anomaly"]' in (each.value or b""))
        prediction(odd_world, odd, lambda fields: fields["flags"].remove("anomaly"))
        assert "flags" in whats(odd_world.verify())

    def test_one_of_a_model_without_them_is_found(self, world: VerifyWorld) -> None:
        prediction(world, 30, lambda fields: fields.update(anomaly_score=0.25))
        assert "anomaly_score" in whats(world.verify())


class TestRefunds:
    """Negative amounts: stored by default, dead by setting, and what was done under the other setting stays."""

    @pytest.fixture
    def refunded(self) -> VerifyWorld:
        world = VerifyWorld()
        for fields in (
            {"amount": 10.0},
            {"amount": -4.0, "at": -HOUR, "number": 2, "note": "returned"},
            {"amount": -4.0, "at": -HOUR, "number": 2, "note": "returned"},
            {"amount": -5.0, "at": -HOUR, "number": 2, "terminal": None},
            {"amount": "-0.01", "currency": "USD", "converted_amount": -0.01, "number": 3},
            {"amount": 30.0, "at": -1, "number": 4},
        ):
            world.send(tx_bytes(**{"at": -2 * HOUR, **fields}), b"c1")
        world.send(
            tx_bytes(9, card="c2", amount=-1, at=-HOUR), b"c2", partition=1 - world.home(b"c2")
        )
        world.run()
        return world

    def test_they_are_stored_and_counted_nowhere(self, refunded: VerifyWorld) -> None:
        report = refunded.verify()
        assert report.passed, report.as_json()
        counted = {name: count for name, count in report.counts.items() if count}
        assert counted == {"read": 8, "scored": 2, "refund": 5, "moved": 1}
        assert report.details["refund_rows"] == 4  # one was sent twice
        last = orjson.loads(refunded.log(refunded.topics.predictions)[-1].value or b"")
        assert last["features"]["card_count_1d"] == last["features"]["terminal_count_1d"] == 2.0
        assert last["features"]["card_avg_amount_1d"] == 20.0
        told = orjson.loads(refunded.log(refunded.topics.refunds)[0].value or b"")
        assert (told["amount"], told["amount_minor"], told["note"]) == (-4.0, -400, "returned")

    def test_by_setting_they_are_dead(self) -> None:
        world = VerifyWorld(refunds="dead")
        world.send(tx_bytes(amount=-1, at=-HOUR), b"c1")
        world.run()
        report = world.verify()
        assert report.passed, report.as_json()
        assert (report.counts["dead"], report.counts["refund"]) == (1, 0)
        (letter,) = world.log(world.topics.dead_letters)
        assert dict(letter.headers)["reason"] == b"negative_amount"

    def test_a_change_of_the_setting_leaves_what_was_done(self, refunded: VerifyWorld) -> None:
        refunded.restart(refunds="dead")
        refunded.send(tx_bytes(10, amount=-1, at=-HOUR), b"c1")
        refunded.run()
        refunded.restart(refunds="store")
        refunded.send(tx_bytes(11, amount=-1, at=-HOUR), b"c1")
        refunded.run()
        for refunds in ("store", "dead"):
            refunded.restart(refunds=refunds)
            report = refunded.verify()
            assert report.passed, report.as_json()
            assert (report.counts["dead"], report.counts["refund"]) == (1, 6)

    def test_a_missing_row_is_found(self, refunded: VerifyWorld) -> None:
        refunded.refund_rows.pop()
        report = refunded.verify()
        assert report.counts["missing"] == 1
        assert whats(report) == {"refund"}

    def test_a_missing_record_is_found(self, refunded: VerifyWorld) -> None:
        next(log for log in refunded.logs[refunded.topics.refunds.name] if log).pop()
        assert refunded.verify().counts["missing"] == 1

    @pytest.mark.parametrize(
        ("field", "value"),
        [("amount_minor", -1), ("card_id", "c9"), ("event_time_ms", T0), ("received_at", 1)],
    )
    def test_a_changed_record_is_found(
        self, refunded: VerifyWorld, field: str, value: object
    ) -> None:
        record = refunded.log(refunded.topics.refunds)[0]
        fields = orjson.loads(record.value or b"") | {field: value}
        refunded.change(refunded.topics.refunds, 0, value=orjson.dumps(fields))
        assert refunded.verify().counts["differing"] == 1

    def test_a_changed_row_is_found(self, refunded: VerifyWorld) -> None:
        refunded.refund_rows[0] = refunded.refund_rows[0]._replace(terminal_id="t9")
        assert whats(refunded.verify()) == {"refund"}

    def test_what_is_not_stored_yet_is_pending(self, refunded: VerifyWorld) -> None:
        for number in range(2):
            refunded.done[refunded.topics.refunds.name, number] = 0
        refunded.refund_rows.clear()
        report = refunded.verify()
        assert (report.counts["pending"], report.counts["missing"]) == (5, 0)


class TestDecisions:
    """What decides is changed in the middle; each prediction must be by what was in force at its offset."""

    @pytest.fixture
    def world(self) -> VerifyWorld:
        world = VerifyWorld()
        entry = artifact_folders(world.settings).find(world.settings.model)
        model_hash = entry.manifest.scoring_hash
        world.control(ModelChange(model=entry.model, hash=model_hash, how="start"))
        for number in range(60):
            world.send(
                tx_bytes(number, card=f"c{number % 9}", at=number * HOUR - 10 * DAY),
                b"c%d" % (number % 9),
            )
            if number == 20:
                world.run()
                world.control(ThresholdChange(threshold=0.01))
            if number == 40:
                world.run()
                world.control(ModelChange(model=entry.model, hash=model_hash))
        world.run()
        return world

    def test_changes_are_followed(self, world: VerifyWorld) -> None:
        report = world.verify()
        assert report.passed, report.as_json()
        thresholds = {
            orjson.loads(r.value or b"")["threshold"] for r in world.log(world.topics.predictions)
        }
        assert len(thresholds) == 2

    @pytest.mark.parametrize("name", ["model_hash", "threshold"])
    @pytest.mark.parametrize("number", [5, 30, 50])
    def test_what_was_not_in_force_is_found(
        self, world: VerifyWorld, name: str, number: int
    ) -> None:
        record = world.log(world.topics.predictions)[number]
        fields = orjson.loads(record.value or b"")
        fields[name] = 0.5 if name == "threshold" else "0" * 16
        fields["is_fraud"] = fields["score"] >= fields["threshold"]
        world.change(world.topics.predictions, number, value=orjson.dumps(fields))
        world.rows = rows_of(world.settings, world.log(world.topics.predictions))
        report = world.verify()
        assert report.counts["differing"] >= 1, report.as_json()
