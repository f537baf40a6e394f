"""Alerts: which transactions are, how urgent, and which belong together; packed as rows."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cassandra.cqltypes import lookup_casstype

from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.migration_files import load_migrations
from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.schema_shape import shape_of
from app.domain.alert_policy import (
    CAUSES,
    SHARDS,
    AlertPolicy,
    day_of,
    group_of,
    place_of,
    shard_of,
)
from app.errors import SettingsError, StateError
from app.settings import load_settings
from app.stages.deployed_alert_policy import alert_policy
from tests.builders import T0
from tests.prediction_builder import prediction

HOUR = 3_600_000
#: Number of the migration that makes the table.
MIGRATION = 7
#: The driver's names of types.
TYPES = {
    "text": "UTF8Type", "int": "Int32Type", "bigint": "LongType", "timestamp": "TimestampType",
    "decimal": "DecimalType", "double": "DoubleType", "frozen<list<text>>": "ListType(UTF8Type)",
}  # fmt: skip
POLICY = AlertPolicy(CAUSES, HOUR, (5_000, 20_000, 100_000))


def alert_of(policy: AlertPolicy = POLICY, **fields: Any) -> dict[str, Any]:
    alert = policy.alert(prediction(is_fraud=True, **fields))
    assert alert is not None
    return alert


class TestGroups:
    def test_a_card_has_one_alert_per_window_wherever_the_window_begins(self) -> None:
        groups = [group_of("c1", T0 + second * 1000, HOUR) for second in range(3 * 3600)]
        opened = sorted({group.opened_at for group in groups})
        assert len(opened) in {3, 4}
        assert {later - earlier for earlier, later in zip(opened, opened[1:], strict=False)} == {
            HOUR
        }
        for second, group in enumerate(groups):
            assert group.opened_at <= T0 + second * 1000 < group.opened_at + HOUR

    def test_not_all_cards_begin_a_window_at_once(self) -> None:
        begins = {group_of(f"c{number}", T0, HOUR).opened_at for number in range(500)}
        assert len(begins) > 400

    @pytest.mark.parametrize("at", [0, 1, T0, T0 + 999, -5 * HOUR])
    def test_an_id_says_where_its_alert_is(self, at: int) -> None:
        group = group_of("card ü", at, HOUR)
        assert place_of(group.alert_id) == group
        assert group.day == datetime.fromtimestamp(group.opened_at / 1000, UTC).strftime("%Y-%m-%d")
        assert 0 <= group.shard < SHARDS

    @pytest.mark.parametrize("text", ["", "x", "20261129T103000", "20261129T103000-12", "2026-ab"])
    def test_what_is_no_id_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            place_of(text)

    def test_shards_are_used_alike(self) -> None:
        shards = [group_of(f"c{number}", T0, HOUR).shard for number in range(1_600)]
        assert set(shards) == set(range(SHARDS))
        assert max(map(shards.count, set(shards))) < 200


class TestPolicy:
    @pytest.mark.parametrize(
        ("score", "minor", "severity"),
        [
            (0.5, 9_999, "low"),
            (0.5, 10_000, "medium"),
            (1.0, 20_000, "high"),
            (0.9, 120_000, "critical"),
            (0.0, 10**9, "low"),
        ],
    )
    def test_severity_is_the_expected_loss(self, score: float, minor: int, severity: str) -> None:
        assert alert_of(score=score, amount_minor=minor)["severity"] == severity

    def test_where_a_rule_fired_the_whole_amount_counts(self) -> None:
        alert = POLICY.alert(prediction(score=0.01, amount_minor=30_000, rules=["large"]))
        assert alert is not None
        assert (alert["severity"], alert["causes"], alert["rules"]) == ("high", ["rule"], ["large"])

    @pytest.mark.parametrize(
        ("fields", "causes"),
        [
            ({}, None),
            ({"is_fraud": True}, ["model"]),
            ({"flags": ["late"]}, None),
            ({"flags": ["anomaly"]}, ["anomaly"]),
            ({"rules": ["a"], "is_fraud": True}, ["model", "rule"]),
        ],
    )
    def test_causes(self, fields: dict[str, Any], causes: list[str] | None) -> None:
        alert = POLICY.alert(prediction(**fields))
        assert (alert and alert["causes"]) == causes

    def test_only_what_the_policy_names_makes_an_alert(self) -> None:
        policy = AlertPolicy(("rule",), HOUR, (1, 2, 3))
        assert policy.alert(prediction(is_fraud=True, flags=["anomaly"])) is None
        found = policy.alert(prediction(is_fraud=True, rules=["a"]))
        assert found is not None
        assert found["causes"] == ["rule"]

    def test_a_replay_gives_the_same_alert(self) -> None:
        assert alert_of(scored_at=1) == alert_of(scored_at=2)

    def test_keys_are_of_the_record_and_ids_of_the_group(self) -> None:
        one, other = alert_of(source_offset=1), alert_of(source_offset=2)
        assert one["alert_id"] == other["alert_id"]
        assert one["key"] != other["key"]
        assert alert_of(card="c2")["alert_id"] != one["alert_id"]


class TestSettings:
    def test_amounts_are_in_major_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FRAUDSTREAM_ALERT_LOSSES", "1,2.5,10")
        policy = alert_policy(load_settings())
        assert policy is not None
        assert policy.losses_minor == (100, 250, 1000)

    def test_none_is_no_policy(self) -> None:
        assert alert_policy(load_settings({"alert_on": "none"})) is None

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("alert_losses", "3,2,1", "write three rising amounts, such as 50,200,1000"),
            ("alert_losses", "1,2", "write three rising amounts"),
            ("alert_losses", "1,2,nan", "write three rising amounts"),
            ("alert_window", "1500ms", "1500ms is not a number of whole seconds"),
            ("alert_on", "luck", "it must be 'model', 'rule' or 'anomaly'"),
        ],
    )
    def test_refusals(self, name: str, value: str, says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            load_settings({name: value})


class TestRows:
    def test_cells_are_what_the_driver_reads(self) -> None:
        """By the types of cql/007_alerts.cql."""
        statements = load_migrations()[MIGRATION - 1].statements(load_settings())
        columns = shape_of(statements).tables["alerts"].columns
        alert = alert_of(flags=["late"], reasons=["ü", "b"], rules=["r"], anomaly_score=0.5)
        (row,) = AlertPacker(2).pack_many([orjson.dumps(alert)])
        found: dict[str, Any] = {}
        at = 0
        for name in ALERTS.columns:
            size = int.from_bytes(row[at : at + 4], "big", signed=True)
            at += 4
            if size >= 0:
                found[name] = lookup_casstype(TYPES[columns[name]]).from_binary(
                    row[at : at + size], 5
                )
                at += size
        assert at == len(row)
        assert set(ALERTS.columns) == set(found)
        assert (found["day"], found["shard"]) == (
            day_of(alert["opened_at"]),
            shard_of(alert["alert_id"]),
        )
        assert found["amount"] * 100 == found["amount_minor"] == alert["amount_minor"]
        for name in ("opened_at", "received_at"):
            assert epoch_ms(found[name]) == alert[name]
        assert epoch_ms(found["event_time"]) == alert["event_time_ms"]
        for name in set(found) - {
            "day",
            "shard",
            "amount",
            "opened_at",
            "event_time",
            "received_at",
        }:
            assert found[name] == alert[name], name

    def test_others_alerts_are_left_out_and_what_is_none_is_named(self) -> None:
        packer = AlertPacker(2, "fraudstream")
        mine, theirs = alert_of(), alert_of(scored_by="other")
        assert len(packer.pack_many([orjson.dumps(mine), orjson.dumps(theirs)])) == 1
        for value in (b"{}", b"[", b'{"alert_id":1}'):
            with pytest.raises(StateError, match="this alert cannot be stored"):
                packer.pack_many([value])
