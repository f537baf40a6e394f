"""A dead letter from its Kafka record, and what `fraudstream deadletters` accepts."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from app.cli import cli
from app.cli.command_errors import run
from app.domain.privacy import Privacy
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.kafka.dead_letter_list import DeadLetter, partition_in
from app.ops.redrive import _unfit
from app.wire.dead_letters import dead_letter


def kafka_record(value: bytes | None, key: bytes | None = b"c1") -> SimpleNamespace:
    source = SimpleNamespace(offset=17, timestamp=0, key=key, value=value, headers=[])
    dead = DeadRecordError("negative_amount", "amount is negative")
    key_, value_, headers = dead_letter("transactions", 2, source, dead)
    return SimpleNamespace(
        key=key_, value=value_, headers=headers, timestamp=1_000, partition=2, offset=5
    )


@pytest.mark.parametrize(
    ("value", "text", "base64"),
    [(b'{"a":1}', '{"a":1}', "eyJhIjoxfQ=="), (b"\xff", None, "/w=="), (b"", "", ""), (None,) * 3],
)
def test_a_dead_letter_keeps_every_byte(
    value: bytes | None, text: str | None, base64: str | None
) -> None:
    letter = DeadLetter.of(kafka_record(value))
    assert (letter.source, letter.position) == ("transactions/2/17", (2, 5))
    described = letter.described()
    assert (described["reason"], described["message"]) == ("negative_amount", "amount is negative")
    assert (described["key"], described["value"], described["value_base64"]) == ("c1", text, base64)


@pytest.mark.parametrize(
    ("value", "rules", "why"),
    [
        (b'{"a":1,"b":2}', Privacy(dropped=frozenset("b")), None),  # it would be dropped then, too
        (b'{"a":1,"b":2}', Privacy(fields={"b": "hash"}, key=b"k"), "or fields hashed"),
        (b'{"pan":"4111111111111111"}', Privacy(), "card numbers in it were masked"),
        (b"{", Privacy(keep_unparsed=False), "its value was dropped (FRAUDSTREAM_DEAD_LETTER_VALUES)"),
        (b"{", Privacy(), None),
    ],
    ids=["dropped", "hashed", "masked", "no-value", "whole"],
)  # fmt: skip
def test_what_lacks_more_than_its_next_letter_would_is_not_sent_back(
    value: bytes, rules: Privacy, why: str | None
) -> None:
    source = SimpleNamespace(offset=17, timestamp=0, key=b"c1", value=value, headers=[])
    dead = DeadRecordError("invalid_amount", "m")
    key, left, headers = dead_letter("t", 2, source, dead, privacy=rules)
    record = SimpleNamespace(
        key=key, value=left, headers=headers, timestamp=0, partition=2, offset=5
    )
    found = _unfit(DeadLetter.of(record), "t")
    assert found is None if why is None else why in (found or "")


def test_a_foreign_record_is_unknown() -> None:
    record = SimpleNamespace(
        key=None, value=b"x", headers=[("reason", b"\xff")], timestamp=0, partition=0, offset=0
    )
    letter = DeadLetter.of(record)
    assert (letter.source, letter.reason, letter.message) == ("unknown", "\\xff", "")


@pytest.mark.parametrize(
    ("source", "partition"), [("transactions/2/17", 2), ("a/b/0/1", 0), ("my.topic/11/0", 11)]
)
def test_positions(source: str, partition: int) -> None:
    assert partition_in(source) == partition


@pytest.mark.parametrize(
    "source", ["", "transactions", "transactions/0", "/0/1", "t/x/1", "t/1/-1"]
)
def test_what_is_no_position(source: str) -> None:
    with pytest.raises(UsageError, match="write topic/partition/offset"):
        partition_in(source)


def test_list_is_the_default() -> None:
    runner = CliRunner()
    # by way of the whole command: a group that is called alone remembers that its help has no `-h`
    by_name = runner.invoke(cli, ["deadletters", "list", "--limit", "x"])
    by_default = runner.invoke(cli, ["deadletters", "--limit", "x"])
    assert by_name.exit_code == by_default.exit_code == 2
    assert by_name.output == by_default.output
    assert "list" in runner.invoke(cli, ["deadletters", "--help"]).output


def test_no_kafka_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "127.0.0.1:1")
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "127.0.0.1:1")
    assert run(["deadletters"]) == 3
    assert capsys.readouterr().err.startswith("fraudstream: no Kafka at 127.0.0.1:1: run ")
    assert run(["deadletters", "redrive", "--all"]) == 3
    assert run(["deadletters", "show", "nonsense"]) == 2
    capsys.readouterr()
    for arguments in ([], ["--all", "--reason", "x"], ["transactions/0/1", "--all"]):
        assert run(["deadletters", "redrive", *arguments]) == 2
        assert capsys.readouterr().err.startswith("fraudstream: give one of ")


def test_a_letter_of_a_record_that_was_sent_back_names_the_first_one() -> None:
    source = SimpleNamespace(
        offset=90, timestamp=0, key=b"c1", value=b"{", headers=[("x", b"1"), ("redriven", b"t/0/1")]
    )
    key, value, headers = dead_letter("t", 0, source, DeadRecordError("invalid_json", "not JSON"))
    record = SimpleNamespace(
        key=key, value=value, headers=headers, timestamp=1, partition=0, offset=7
    )
    letter = DeadLetter.of(record)
    assert (letter.source, letter.redriven) == ("t/0/90", "t/0/1")
    assert "x" not in dict(headers)
