"""The files of cql/, and what the settings make of them; no server."""

from importlib.resources import files
from typing import Any

import pytest

from app.cassandra.migration_files import (
    Migration,
    load_migrations,
    replication,
    split_statements,
    table_options,
)
from app.cassandra.prediction_rows import COLUMNS
from app.cassandra.schema_migration import dry_run
from app.cassandra.schema_shape import Differences, Shape, Table, compare, shape_of
from app.cli.command_errors import run
from app.settings import Settings


def made(**fields: Any) -> Settings:
    return Settings(_env_file=None, **fields)  # type: ignore[call-arg]


def test_they_are_numbered_without_gaps_and_shipped() -> None:
    migrations = load_migrations()
    assert [m.title for m in migrations] == [
        "001_keyspace",
        "002_predictions",
        "003_transaction_index",
        "004_labels",
        "005_conflicting_predictions",
        "006_refunds",
        "007_alerts",
        "008_models",
        "009_rules",
        "010_alert_reviews",
        "011_challengers",
        "012_erasures",
        "013_audit_records",
    ]
    assert len([f for f in files("cql").iterdir() if f.name.endswith(".cql")]) == len(migrations)


def test_every_statement_may_be_repeated() -> None:
    for migration in load_migrations():
        for statement in migration.statements(made()):
            assert "IF NOT EXISTS" in statement, statement
            assert "$" not in statement


#: What was applied somewhere never changes: a release that fails here must add a migration instead.
RELEASED = {
    "001_keyspace": "8df55df951949017",
    "002_predictions": "ae983ae786d0f41a",
    "003_transaction_index": "6f1663ad6d52383d",
    "004_labels": "4cec596c9d925426",
    "005_conflicting_predictions": "6cd3762c6b8ae235",
    "006_refunds": "ed372f8a956a98fd",
    "007_alerts": "99d809a741bda8a7",
    "008_models": "96fbc5b916e19861",
    "009_rules": "286ffb81bf79285a",
    "010_alert_reviews": "8edd00c841d4c712",
    "011_challengers": "a26b22802b0db6fc",
    "012_erasures": "85c4650444c633f2",
    "013_audit_records": "c232e22fee165d37",
}


def test_released_migrations_have_not_changed() -> None:
    assert {m.title: m.checksum[:16] for m in load_migrations()} == RELEASED


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ;; ", []),
        ("A;B", ["A", "B"]),
        ("A 'x;y''z;' B; C", ["A 'x;y''z;' B", "C"]),
        ("-- one; two\nA; // three; \n B /* ; */ C;", ["A", "B   C"]),
        ("a - b / c;", ["a - b / c"]),
    ],
)
def test_splitting(text: str, statements: list[str]) -> None:
    assert split_statements(text) == statements


def test_the_checksum_is_of_the_statements() -> None:
    def checksum(text: str) -> str:
        return Migration(1, "x", text).checksum

    assert checksum("CREATE  TABLE a (\n b int);") == checksum("-- why\nCREATE TABLE a ( b int)")
    assert checksum("CREATE TABLE a (b int);") != checksum("CREATE TABLE a (b text);")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "{'class': 'SimpleStrategy', 'replication_factor': 1}"),
        (
            {"cassandra_replication": 3, "cassandra_datacenter": "eu-1"},
            "{'class': 'NetworkTopologyStrategy', 'eu-1': 3}",
        ),
        (
            {"cassandra_datacenter": "o'dc"},
            "{'class': 'NetworkTopologyStrategy', 'o''dc': 1}",
        ),
    ],
)
def test_replication(fields: dict[str, Any], expected: str) -> None:
    assert replication(made(**fields)) == expected


def shape() -> Shape:
    return shape_of(s for migration in load_migrations() for s in migration.statements(made()))


def test_the_shape_of_the_tables() -> None:
    found = shape()
    predictions = found.tables["predictions"]
    assert set(COLUMNS) <= predictions.columns.keys()
    assert predictions.columns["features"] == "frozen<map<text,double>>"
    assert predictions.partition_key == ("card_id", "month")
    assert predictions.clustering == ("event_time", "transaction_id")
    assert found.tables["labels"].partition_key == ("transaction_id",)
    assert len(found.tables["labels"].clustering) == 4
    assert found.indexes == {
        "predictions_by_transaction": "predictions",
        "conflicting_by_transaction": "conflicting_predictions",
        "alerts_by_card": "alerts",
        "alerts_by_terminal": "alerts",
    }


def test_later_migrations_count_too() -> None:
    found = shape_of(
        [
            "CREATE TABLE IF NOT EXISTS k.a (b int PRIMARY KEY, c text)",
            "ALTER TABLE k.a ADD IF NOT EXISTS d map<text, int>",
            "ALTER TABLE k.a ADD (e int, f frozen<list<text>>)",
        ]
    )
    assert found.tables["a"].columns == {
        "b": "int", "c": "text", "d": "map<text,int>", "e": "int", "f": "frozen<list<text>>",
    }  # fmt: skip
    assert found.tables["a"].partition_key == ("b",)


def test_what_people_add_is_theirs_and_what_they_drop_is_found() -> None:
    have = shape()
    have.tables["predictions"].columns["ours"] = "text"
    have.tables["theirs"] = Table({"a": "int"})
    assert compare(shape(), have) == Differences()
    del have.tables["predictions"].columns["score"]
    have.indexes.clear()
    del have.tables["labels"]
    found = compare(shape(), have)
    assert (found.tables, found.columns) == (["labels"], [("predictions", "score", "double")])
    assert sorted(found.indexes) == [
        "alerts_by_card", "alerts_by_terminal", "conflicting_by_transaction", "predictions_by_transaction",
    ]  # fmt: skip
    assert str(found) == "table labels, column predictions.score"


def test_what_cannot_be_repaired_is_named() -> None:
    have = shape()
    have.tables["predictions"].columns["amount"] = "text"
    have.tables["labels"].clustering = ("card_id",)
    assert compare(shape(), have).broken == [
        "column predictions.amount is text instead of decimal",
        "table labels has another primary key",
    ]


@pytest.mark.parametrize(
    ("ttl", "seconds", "window"),
    [
        ("forever", 0, None),
        ("2h", 7_200, ("HOURS", "1")),
        ("10d", 864_000, ("HOURS", "8")),
        ("60d", 5_184_000, ("DAYS", "2")),
        ("400d", 34_560_000, ("DAYS", "13")),
    ],
)
def test_rows_that_expire_are_kept_by_time(
    ttl: str, seconds: int, window: tuple[str, str] | None
) -> None:
    options = table_options(made(prediction_ttl=ttl))
    assert options.ttl_seconds == seconds
    strategy = options.compaction["class"]
    if window is None:
        assert strategy == "UnifiedCompactionStrategy"
        return
    assert strategy == "TimeWindowCompactionStrategy"
    unit, size = (
        options.compaction["compaction_window_unit"],
        options.compaction["compaction_window_size"],
    )
    assert (unit, size) == window


def test_a_dry_run_asks_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "127.0.0.1:1")
    monkeypatch.setenv("FRAUDSTREAM_KEYSPACE", "payments")
    assert run(["migrate", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("CREATE KEYSPACE IF NOT EXISTS payments WITH replication")
    assert "payments.predictions (" in shown
    assert "USING 'sai';" in shown
    assert len(list(dry_run(made()))) == 27


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", "--help"]) == 0
    assert "Example:  fraudstream migrate" in capsys.readouterr().out


def test_no_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "127.0.0.1:1")
    assert run(["migrate"]) == 3
    assert capsys.readouterr().err.startswith("fraudstream: no Cassandra at 127.0.0.1:1: run")
