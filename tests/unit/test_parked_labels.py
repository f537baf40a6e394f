"""Parked labels: rows of their own, copies that settle them, and when their transactions are looked for."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.domain.transaction import DeadRecordError
from app.errors import NotAnsweringError, RowFormatError
from app.settings import load_settings
from app.stages.label_retry_schedule import RetrySchedule
from app.stages.label_stage import LabelsHandler
from app.stages.parked_label_retries import LabelRetries, ParkedSummary, look_up_with
from app.stages.parked_labels import (
    FoundTransaction,
    copied_offset,
    decide,
    parked_row,
    read_parked,
    row_key,
)
from app.stages.reserved_rows import POSITION_KEY
from app.topics import Topics
from app.wire.control_records import decode_message
from app.wire.label_records import LabelRecord, parse_label
from tests.builders import T0
from tests.fakes import Rows

DAY = 86_400_000
WAIT = 3 * DAY
TOPICS = Topics(load_settings())
LABELS, ENRICHED, DEAD = TOPICS.labels.name, TOPICS.enriched.name, TOPICS.dead_letters.name
FOUND = {"card_id": "c1", "terminal_id": "t1", "event_time_ms": T0 - DAY}


def said(name: str, **fields: Any) -> bytes:
    return orjson.dumps(
        {"transaction_id": name, "is_fraud": 1, "labelled_at": T0 - 2 * DAY, **fields}
    )


def whole(name: str) -> bytes:
    return said(name, card_id="c1", terminal_id="t1", event_time=T0 - DAY)


class Worker:
    """The labels stage and its retries over rows in memory; `known` is what Cassandra has."""

    def __init__(self, rows: Rows | None = None, max_parked: int = 100) -> None:
        self.rows = rows or Rows()
        self.known: dict[str, list[dict[str, Any]]] = {}
        self.away = False
        self.now_ms = T0
        self.copies: list[Any] = []
        self.asked: list[str] = []
        self.handler = LabelsHandler(
            TOPICS, partition_of=lambda _: 0, max_future_skew_ms=0, max_parked=max_parked,
            look_up=look_up_with(self.find),
        )  # fmt: skip
        self.retries = LabelRetries(
            LABELS, self, find=self.find, send=self.send, clock_ms=lambda: self.now_ms,
            label_wait_ms=WAIT, max_future_skew_ms=0,
        )  # fmt: skip
        self.retries.hold([3])

    def load(self, _partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def scan(self, _partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return self.rows.scan(prefix)

    async def find(self, names: Sequence[str]) -> list[list[dict[str, Any]]]:
        self.asked += names
        if self.away:
            raise NotAnsweringError("away")
        return [self.known.get(name, []) for name in names]

    async def send(self, outputs: Any) -> None:
        ((where, copies),) = outputs.items()
        assert where == (LABELS, 3)
        self.copies += copies

    def take(self, *records: Any) -> dict[Any, list[Any]]:
        """One block, its rows stored; the outputs."""
        asyncio.run(self.handler.prepare(3, records, self.rows, T0))
        computed = self.handler.compute(3, records, self.rows)
        for group in computed.groups:
            self.rows.write(group)
            self.retries.stored(3, group)
        outputs: dict[Any, list[Any]] = computed.outputs.outputs
        return outputs

    def look(self, after_ms: int = 1_000) -> list[Any]:
        """Look for parked labels a while later; the copies that were sent."""
        self.now_ms += after_ms
        self.copies.clear()
        asyncio.run(self.retries.look())
        return self.copies

    @property
    def waiting(self) -> list[str]:
        return [
            orjson.loads(read_parked(raw).value)["transaction_id"]
            for _, raw in self.rows.scan(b"p")
        ]


def record(offset: int, value: bytes, headers: Any = (), key: bytes = b"k") -> Any:
    return SimpleNamespace(offset=offset, timestamp=T0, key=key, value=value, headers=headers)


def copy_at(offset: int, copy: Any) -> Any:
    key, value, headers = copy
    return record(offset, value, headers, key)


def items(outputs: dict[Any, list[Any]]) -> list[tuple[int, str, bool]]:
    batches = [decode_message(value) for _, value, _ in outputs.get((ENRICHED, 0), [])]
    return [
        (item.offset, item.transaction_id, batch.looked_up)
        for batch in batches
        for item in batch.items
    ]  # type: ignore[union-attr]


def letters(outputs: dict[Any, list[Any]]) -> list[tuple[bytes, str]]:
    return [
        (key, dict(headers)["reason"].decode()) for key, _, headers in outputs.get((DEAD, 3), [])
    ]


class TestStage:
    def test_an_unknown_label_is_parked_and_those_around_it_go_on(self) -> None:
        worker = Worker()
        worker.known["x"] = [FOUND]
        outputs = worker.take(
            record(0, whole("a")),
            record(1, said("who")),
            record(2, said("x")),
            record(3, whole("b")),
        )
        assert sorted(items(outputs)) == [(0, "a", False), (2, "x", True), (3, "b", False)]
        assert (worker.waiting, letters(outputs)) == (["who"], [])
        assert worker.handler.counts == {"forwarded": 3, "parked": 1}

    def test_blocks_without_parked_labels_write_no_rows(self) -> None:
        worker = Worker()
        worker.take(record(0, whole("a")), record(1, b"{"))
        assert worker.rows.rows == {}

    def test_what_is_parked_is_not_decided_again_by_a_replay(self) -> None:
        worker = Worker()
        worker.take(record(0, said("who")))
        worker.known["who"] = [FOUND]
        assert items(worker.take(record(0, said("who")), record(1, whole("a")))) == [
            (1, "a", False)
        ]
        assert worker.waiting == ["who"]

    def test_nothing_waits_for_cassandra(self) -> None:
        worker = Worker()
        worker.away = True
        outputs = worker.take(record(0, said("x")), record(1, whole("a")))
        assert items(outputs) == [(1, "a", False)]
        assert worker.waiting == ["x"]

    def test_labels_that_are_whole_are_not_looked_up(self) -> None:
        worker = Worker()
        worker.take(record(0, whole("a")))
        assert worker.asked == []

    def test_only_what_is_computed_is_looked_up(self) -> None:
        worker = Worker()
        far = said("far", labelled_at=T0 - 1)
        block = [record(0, said("near")), record(1, far), record(2, said("behind"))]
        asyncio.run(worker.handler.prepare(3, block, worker.rows, T0 - DAY))
        computed = worker.handler.compute(3, block, worker.rows, T0 - DAY)
        assert (worker.asked, computed.taken) == (["near"], 1)

    def test_several_of_the_id_are_ambiguous_unless_the_label_says_which(self) -> None:
        worker = Worker()
        worker.known["x"] = [FOUND, {**FOUND, "card_id": "c2"}]
        outputs = worker.take(record(0, said("x")), record(1, said("x", card_id="c2")))
        assert letters(outputs) == [(b"%s/3/0" % LABELS.encode(), "ambiguous_transaction")]
        assert items(outputs) == [(1, "x", True)]

    def test_the_oldest_gives_way_when_too_many_wait(self) -> None:
        worker = Worker(max_parked=2)
        outputs = worker.take(*(record(n, said(f"w{n}")) for n in range(3)))
        assert letters(outputs) == [(b"%s/3/0" % LABELS.encode(), "too_many_waiting")]
        worker = Worker(worker.rows, max_parked=2)  # another worker counts what is there
        outputs = worker.take(record(3, said("w3")))
        assert letters(outputs) == [(b"%s/3/1" % LABELS.encode(), "too_many_waiting")]
        assert worker.waiting == ["w2", "w3"]

    def test_a_dead_letter_has_the_original_bytes_key_and_history(self) -> None:
        worker = Worker(max_parked=1)
        value = b"  " + said("w0", note="\\u00e9") + b" "
        ((key, sent, headers),) = worker.take(
            record(0, value, [("redriven", b"labels/3/7"), ("other", b"x")], key=b"\xff"),
            record(1, said("w1")),
        )[DEAD, 3]
        assert sent == value
        assert dict(headers)["key"] == b"\xff"
        assert dict(headers)["redriven"] == b"labels/3/7"
        assert dict(headers)["offset"] == b"0"


class TestCopies:
    def test_a_found_label_comes_back_whole_and_is_applied(self) -> None:
        worker = Worker()
        worker.take(record(5, said("x", note="kept")))
        assert worker.look() == []
        worker.known["x"] = [FOUND]
        (copy,) = worker.look()
        assert parse_label(copy[1], 9, T0, 0).whole
        outputs = worker.take(copy_at(9, copy))
        assert items(outputs) == [(5, "x", True)]
        batch = decode_message(outputs[ENRICHED, 0][0][1])
        assert orjson.loads(batch.items[0].body)["note"] == "kept"  # type: ignore[union-attr]
        assert (worker.waiting, worker.retries.parked()) == ([], [ParkedSummary(3, 0)])

    def test_a_second_copy_changes_nothing(self) -> None:
        worker = Worker()
        worker.known["x"] = []
        worker.take(record(5, said("x")))
        worker.known["x"] = [{**FOUND, "terminal_id": None}]
        (copy,) = worker.look()
        assert len(items(worker.take(copy_at(9, copy), copy_at(10, copy)))) == 1
        assert worker.take(copy_at(11, copy)) == {}
        assert worker.handler.counts["repeated"] == 2

    def test_a_label_that_waited_too_long_is_given_up_through_the_log(self) -> None:
        worker = Worker()
        worker.take(record(5, said("who")))
        assert worker.look(WAIT - 1) == []
        (copy,) = worker.look(DAY)
        assert worker.waiting == ["who"]  # until the copy has come
        outputs = worker.take(copy_at(9, copy))
        assert letters(outputs) == [(b"%s/3/5" % LABELS.encode(), "unknown_transaction")]
        assert worker.waiting == []

    def test_nothing_is_given_up_while_cassandra_is_away(self) -> None:
        worker = Worker()
        worker.take(record(5, said("who")))
        worker.away = True
        assert worker.look(10 * WAIT) == []
        worker.away = False
        assert len(worker.look()) == 1

    def test_a_copy_that_got_lost_is_sent_again(self) -> None:
        worker = Worker()
        worker.take(record(5, said("x")))
        worker.known["x"] = [FOUND]
        assert len(worker.look()) == 1
        assert worker.look(20_000) == []
        assert len(worker.look(20_000)) == 1

    def test_parked_labels_outlive_their_worker(self) -> None:
        worker = Worker()
        worker.take(record(5, said("x")))
        successor = Worker(worker.rows)
        assert successor.retries.parked() == [ParkedSummary(3, 1, T0, "x")]
        successor.known["x"] = [FOUND]
        assert len(successor.look()) == 1

    @pytest.mark.parametrize(
        ("value", "headers"),
        [
            (b"{", []),
            (b"[]", []),
            (said("x"), []),
            (said("x", card_id=1, event_time=T0), []),
            (said("x", card_id="", event_time=T0), []),
            (said("x", card_id="c", terminal_id="a\0b", event_time=T0), []),
            (said("x"), [("reason", b"because")]),
            (said("x"), [("reason", b"\xff")]),
        ],
    )
    def test_a_forged_copy_is_dead_and_leaves_the_label(self, value: bytes, headers: Any) -> None:
        worker = Worker()
        worker.take(record(5, said("x")))
        origin = ("origin", b"%s/3/5" % LABELS.encode())
        outputs = worker.take(record(6, value, [origin, *headers]))
        assert letters(outputs) == [(b"%s/3/6" % LABELS.encode(), "invalid_copy")]
        assert worker.waiting == ["x"]

    @pytest.mark.parametrize(
        "origin", ["", "x/3/5", "{}/2/5", "{}/3/9", "{}/3/10", "{}/3/-1", "{}/3/5x"]
    )
    def test_a_foreign_origin_makes_no_copy(self, origin: str) -> None:
        headers = [("origin", origin.format(LABELS).encode())]
        assert copied_offset(LABELS, 3, record(9, b"", headers)) is None
        assert copied_offset(LABELS, 3, record(9, b"", [("origin", f"{LABELS}/3/8".encode())])) == 8


class TestSchedule:
    def test_the_older_the_rarer(self) -> None:
        schedule = RetrySchedule()
        schedule.take([parked_row(record(1, said("x")))], T0)
        assert (schedule.due(T0, 9), schedule.due(T0 + 200, 9)) == ([], [1])
        for now, pause in ((T0 + 400, 200), (T0 + 8_000, 2_000), (T0 + DAY, 300_000)):
            schedule.looked(1, now)
            assert schedule.due(now + pause - 1, 9) == []
            assert schedule.due(now + pause, 9) == [1]

    def test_a_damaged_row_is_noticed(self) -> None:
        _, raw = parked_row(record(1, said("x")))
        assert raw is not None
        for bad in (raw[:20], raw[:8] + raw[8:].replace(b"\x95\x01", b"\x95\x02")):
            with pytest.raises(RowFormatError):
                read_parked(bad)


def test_a_label_fits_what_it_says() -> None:
    label = parse_label(said("x", event_time=T0 - DAY), 0, T0, 0)
    assert isinstance(label, LabelRecord)
    assert decide(label, []) is None
    assert decide(label, [{**FOUND, "event_time_ms": 7}, FOUND]) == FoundTransaction(**FOUND)
    assert isinstance(decide(label, [FOUND, FOUND]), DeadRecordError)


def test_the_position_stands_behind_the_rows() -> None:
    worker = Worker()
    computed = worker.handler.compute(3, [record(4, said("x"))], worker.rows)
    assert [key for group in computed.groups for key, _ in group] == [row_key(4), POSITION_KEY]
