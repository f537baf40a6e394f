"""Labels: what is one, where it waits, which one holds, what a stored row says of them."""

import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.domain.features import Catalogue
from app.domain.label_outcomes import LabelOutcome, TerminalStage
from app.domain.transaction import DeadRecordError, hash_id
from app.errors import RowFormatError, SettingsError, UsageError
from app.ops.files.columns import FileOptions
from app.ops.files.file_times import TimeRules
from app.ops.files.label_file import open_labels
from app.settings import load_settings
from app.stages.block_rows import terminal_rules
from app.stages.label_stage import LabelsHandler
from app.stages.reserved_rows import POSITION_KEY, StatePosition
from app.stages.state_settings import terminal_settings
from app.topics import Topics
from app.windows.row_format import ROW_VERSION, RowRules, head_key, max_head_bytes
from app.windows.waiting_labels import EntryLabel, decode_labels, encode_labels
from app.windows.window_row import WindowRow
from app.wire.control_records import decode_message
from app.wire.label_records import (
    MAX_LABEL_BYTES,
    LabelBatch,
    LabelItem,
    as_label,
    given_back,
    labels_message,
    parse_label,
)
from tests.builders import T0
from tests.fakes import Rows

RULES = RowRules(1_000, 100, 7, 4, max_waiting=3, label_bytes=100)
STAGE = TerminalStage(Catalogue((10, 100), 2, "UTC"), label_wait_ms=50, max_waiting=3)


def said(name: str, t: int, fraud: bool = True, *, at: int = 0, came: int = 0) -> EntryLabel:
    return EntryLabel(t, hash_id(name), fraud, at, came, name.encode())


def row_of(*names: str, stored: dict[bytes, Any] | None = None) -> WindowRow:
    row = WindowRow.read(b"t", RULES, (stored or {}).get)
    for t, name in enumerate(names):
        STAGE.apply(row, t, 5, [], hash_id(name))
    return row


class TestTerminal:
    """Timelines: transactions a, b, c at 0, 1, 2 ms."""

    def test_the_latest_label_holds_and_of_equal_ones_the_last(self) -> None:
        row = row_of("a", "b")
        for fraud, at in ((True, 5), (False, 4), (True, 6), (False, 6)):
            assert STAGE.label(row, said("b", 1, fraud, at=at)) is LabelOutcome.APPLIED
        assert list(row.labels()) == [None, (False, 6)]
        assert row.known(1, [10]) == [(2, 0)]

    def test_a_label_waits_for_its_transaction(self) -> None:
        row = row_of("a")
        assert STAGE.label(row, said("b", 1)) is LabelOutcome.WAITING
        assert STAGE.given_up(row, now_ms=50) == []
        STAGE.apply(row, 1, 5, [], hash_id("b"))
        assert not row.waiting
        assert list(row.labels()) == [None, (True, 0)]

    def test_it_waits_no_longer_than_it_may_and_at_the_right_moment_only(self) -> None:
        row = row_of("a")
        STAGE.label(row, said("a", 7))  # there is an "a", but not then
        assert STAGE.given_up(row, now_ms=50) == []
        assert STAGE.given_up(row, now_ms=51) == [said("a", 7)]
        assert not row.waiting

    def test_the_longest_waiting_gives_way(self) -> None:
        row = row_of("a")
        for number in range(4):
            STAGE.label(row, said(f"w{number}", 9))
        assert STAGE.given_up(row, now_ms=0) == [said("w0", 9)]
        assert [label.source for label in row.waiting] == [b"w1", b"w2", b"w3"]

    def test_one_label_of_a_transaction_waits_the_one_that_will_hold(self) -> None:
        row = row_of("a")
        for fraud, at in ((True, 5), (False, 4), (False, 5)):
            STAGE.label(row, said("b", 1, fraud, at=at))
        assert row.waiting == [said("b", 1, False, at=5)]

    def test_what_may_have_left_is_not_waited_for(self) -> None:
        row = row_of("a")
        STAGE.apply(row, 2_000, 5, [], hash_id("z"))
        assert STAGE.label(row, said("a", 0)) is LabelOutcome.EXPIRED
        assert not row.waiting

    def test_late_transactions_take_labels_and_count_for_nobody(self) -> None:
        row = row_of("a")
        row.insert(0, 5, counted=False, id8=hash_id("l"))
        STAGE.label(row, said("l", 0))
        assert list(row.labels()) == [None, (True, 0)]
        assert row.known(0, [10]) == [(1, 0)]

    @pytest.mark.parametrize("labelled", [0, 3, 8, 19])
    def test_rows_say_the_same_when_they_are_read_again(self, labelled: int) -> None:
        row = row_of(*(f"#{number}" for number in range(20)))
        STAGE.label(row, said(f"#{labelled}", labelled, at=77))
        STAGE.label(row, said("to come", 30))
        stored = dict(row.encode())
        assert len(stored[head_key(b"t")] or b"") <= max_head_bytes(RULES)
        again = row_of(stored=stored)
        assert list(again.labels()) == list(row.labels())
        assert list(again.entries()) == list(row.entries())
        assert again.waiting == row.waiting
        for until in range(21):
            lengths = [1, 3, 7, 20]
            frauds = [until - n < labelled <= until for n in lengths]
            kept = [sum(until - n < t <= until for t in range(20)) for n in lengths]
            assert again.known(until, lengths) == list(zip(kept, frauds, strict=True))

    def test_rows_without_labels_stay_as_they_were(self) -> None:
        row = row_of("a")
        (_, raw), *_ = row.encode()
        assert raw is not None
        assert struct.unpack_from(">qB", raw)[1] == ROW_VERSION

    def test_a_cut_off_label_is_noticed(self) -> None:
        raw = encode_labels([said("b", 1)])
        assert decode_labels(raw) == [said("b", 1)]
        for cut in (1, 5, len(raw) - 1):
            with pytest.raises(RowFormatError):
                decode_labels(raw[:cut])


def test_the_largest_label_fits_the_room_that_is_made_for_it() -> None:
    settings = load_settings({"topic_prefix": "x" * 240})
    record = {"transaction_id": "t", "is_fraud": 1, "labelled_at": T0, "note": ""}
    record["note"] = "n" * (MAX_LABEL_BYTES - len(orjson.dumps(record)))
    label = parse_label(orjson.dumps(record), (1 << 62), T0, 0)
    item = LabelItem(
        label.offset, label.received_at, "t", "c", "c", T0, True, label.labelled_at_ms, label.body
    )
    batch = decode_message(labels_message(Topics(settings).labels.name, 1023, [item]))
    assert isinstance(batch, LabelBatch)
    one = as_label(batch, batch.items[0])
    assert len(one.source) <= terminal_rules(settings).label_bytes
    assert given_back(one).value == orjson.dumps(record)
    assert given_back(one).offset == 1 << 62


class TestRecord:
    def test_everything_that_it_may_say(self) -> None:
        record = {
            "transaction_id": "t", "is_fraud": True, "labelled_at": "2023-11-14T22:13:20Z",
            "card_id": "c", "terminal_id": "u", "event_time": T0 - 5,
        }  # fmt: skip
        label = parse_label(orjson.dumps(record), 3, T0, 0)
        assert label.whole
        assert (label.labelled_at_ms, label.event_time_ms, label.is_fraud) == (T0, T0 - 5, True)
        record |= {
            "transaction_id": 7,
            "card_id": 8,
            "labelled_at": T0 / 1000,
            "event_time": T0 * 1000,
        }
        label = parse_label(orjson.dumps(record), 3, T0, 0)
        assert (label.transaction_id, label.card_id) == ("7", "8")
        assert (label.labelled_at_ms, label.event_time_ms) == (T0, T0)
        record["labelled_at"] = T0 // 1000
        record["event_time"] = T0 // 1000
        label = parse_label(orjson.dumps(record), 3, T0, 0, "s")
        assert (label.labelled_at_ms, label.event_time_ms) == (T0, T0)
        record["event_time"] = T0
        del record["terminal_id"]
        assert not parse_label(orjson.dumps(record | {"labelled_at": T0}), 3, T0, 0).whole

    @pytest.mark.parametrize(
        ("reason", "fields"),
        [
            ("missing_transaction_id", {"transaction_id": None}),
            ("invalid_transaction_id", {"transaction_id": 7.0}),
            ("missing_is_fraud", {"is_fraud": None}),
            ("invalid_is_fraud", {"is_fraud": 2}),
            ("invalid_is_fraud", {"is_fraud": "maybe"}),
            ("invalid_is_fraud", {"is_fraud": ""}),
            ("invalid_is_fraud", {"is_fraud": 0.5}),
            ("invalid_is_fraud", {"is_fraud": [1]}),
            ("missing_labelled_at", {"labelled_at": None}),
            ("invalid_labelled_at", {"labelled_at": "soon"}),
            ("no_time_zone", {"labelled_at": "2023-11-14T22:13:20"}),
            ("epoch_in_seconds", {"labelled_at": T0 // 1000}),
            ("labelled_at_too_old", {"labelled_at": -1}),
            ("in_the_future", {"labelled_at": T0 + 11}),
            ("invalid_card_id", {"card_id": ""}),
            ("invalid_event_time", {"event_time": [1]}),
            ("event_time_too_old", {"event_time": 1.5}),
            ("in_the_future", {"event_time": T0 + 11}),
            ("in_the_future", {"event_time": "9999-12-31T23:59:59-14:00"}),
            ("too_large", {"note": "n" * MAX_LABEL_BYTES}),
        ],
    )
    def test_what_is_none(self, reason: str, fields: dict[str, Any]) -> None:
        record = {"transaction_id": "t", "is_fraud": 0, "labelled_at": T0, **fields}
        with pytest.raises(DeadRecordError) as caught:
            parse_label(orjson.dumps(record), 0, T0, 10)
        assert caught.value.reason == reason


class TestHandler:
    def handle(self, values: Sequence[bytes]) -> Any:
        topics = Topics(load_settings())
        handler = LabelsHandler(topics, partition_of=lambda key: key[0] % 2, max_future_skew_ms=0)
        records = [
            SimpleNamespace(offset=number, timestamp=T0, key=None, value=value, headers=())
            for number, value in enumerate(values)
        ]
        return topics, handler.compute(3, records, Rows()).outputs.outputs

    def test_labels_go_where_their_transactions_went_in_order(self) -> None:
        values = [
            orjson.dumps(
                {"transaction_id": str(n), "is_fraud": 1, "labelled_at": T0, "card_id": "c",
                 "terminal_id": "ab"[n % 2], "event_time": T0}
            )
            for n in range(6)
        ]  # fmt: skip
        topics, outputs = self.handle([*values, b"{", values[0]])
        found = {}
        for partition in (0, 1):
            ((key, value, _),) = outputs[topics.enriched.name, partition]
            batch = decode_message(value)
            assert key is None
            assert (batch.topic, batch.partition) == (topics.labels.name, 3)
            found[partition] = [item.offset for item in batch.items]
        assert found == {1: [0, 2, 4, 7], 0: [1, 3, 5]}
        ((_, value, headers),) = outputs[topics.dead_letters.name, 3]
        assert (value, dict(headers)["reason"]) == (b"{", b"invalid_json")

    @pytest.mark.parametrize(("whole", "taken"), [(True, None), (False, 1)])
    def test_only_a_whole_label_is_let_through_with_a_wrong_clock(
        self, whole: bool, taken: int | None
    ) -> None:
        """One that waits for its transaction would keep that back, with everybody."""
        handler = LabelsHandler(Topics(load_settings()), partition_of=len, max_future_skew_ms=0)
        label = {"transaction_id": "t", "is_fraud": 1, "labelled_at": T0, "card_id": "c",
                 "event_time": T0 - 9}  # fmt: skip
        if whole:
            label["terminal_id"] = "u"
        ahead = {**label, "labelled_at": T0 + 500}
        records = [
            SimpleNamespace(
                offset=n, timestamp=T0 + 500, key=None, value=orjson.dumps(one), headers=()
            )
            for n, one in enumerate([label, ahead, label, label, label])
        ]
        assert handler.compute(3, records, Rows(), T0 + 100).taken == taken


class TestPosition:
    def test_labels_have_sources_of_their_own(self) -> None:
        key, raw = StatePosition(4, "s", {0: 7}, {"labels": {0: 9}}).encode()
        assert StatePosition.read(Rows({key: raw or b""}), "s").labels == {"labels": {0: 9}}

    def test_a_state_from_before_labels_is_read(self) -> None:
        import msgspec

        settings = load_settings({"features": "basic"})
        text = "windows=1h,1d,7d,30d allowed_lateness=1d max_entries_per_key=20000 currency=EUR"
        before = (5).to_bytes(8, "big") + msgspec.msgpack.encode((text, {0: 7, 1: 8}))
        position = StatePosition.read(Rows({POSITION_KEY: before}), terminal_settings(settings))
        assert (position.seen, position.labels) == ({0: 7, 1: 8}, {})
        position.check("e/0", terminal_settings(settings), log_end=6, log_start=0, start=6)

    def test_another_label_delay_is_refused(self) -> None:
        was, now = (terminal_settings(load_settings({"label_delay": d})) for d in ("7d", "8d"))
        with pytest.raises(SettingsError, match="FRAUDSTREAM_LABEL_DELAY=7d"):
            StatePosition(5, was).check("e/0", now, log_end=6, log_start=0, start=6)


class TestFiles:
    def read(self, path: Path, text: str, **options: Any) -> list[Any]:
        path.write_text(text)
        how = {name: options.pop(name) for name in ("mapping", "run", "times") if name in options}
        with open_labels(path, FileOptions(**how), now_ms=T0, **options) as reading:
            return [(key, orjson.loads(value)) for key, value in reading.pairs()]

    def test_a_file_of_the_simulator(self, tmp_path: Path) -> None:
        text = "transaction_id,is_fraud,fraud_kind\nx-1,0,\nx-2,1,card\n"
        assert self.read(tmp_path / "l.csv", text, run="r", skip=1) == [
            (b"r-x-2", {"transaction_id": "r-x-2", "is_fraud": True, "labelled_at": T0})
        ]

    def test_foreign_columns(self, tmp_path: Path) -> None:
        from zoneinfo import ZoneInfo

        text = "ID,F,WHEN,T\n7,1,2018-04-01 00:00:31,99\n"
        mapping = {
            "transaction_id": "ID",
            "is_fraud": "F",
            "event_time": "WHEN",
            "terminal_id": "T",
        }
        times = TimeRules(ZoneInfo("UTC"))
        ((_, label),) = self.read(tmp_path / "l.csv", text, mapping=mapping, times=times)
        assert label["event_time"] == "2018-04-01T00:00:31Z"
        assert label["terminal_id"] == "99"

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("transaction_id,is_fraud\nx,maybe\n", "line 2.*maybe.*is not fraud or genuine"),
            ("transaction_id,is_fraud\n,1\n", "transaction_id.*is empty"),
            ("transaction_id\nx\n", "no column for is_fraud"),
            ("transaction_id,is_fraud,labelled_at\nx,1,2020-01-01\n", "assume-zone"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, what: str) -> None:
        with pytest.raises(UsageError, match=what):
            self.read(tmp_path / "l.csv", text)
