"""The state row: columns, segments, expiry, cap and floor, with segments small enough to draw.

```text
 t      0   1   2   3   4   5   6   7   8   9
 seg=2  [ s0  ] [ s1  ] [ s2  ] [  tail ...      a tail of four is halved: its older half is sealed
```
"""

import random
import struct

import pytest

from app.errors import RowFormatError
from app.windows.entries import Entries
from app.windows.row_format import head_key, max_group_bytes, max_head_bytes, segment_key
from app.windows.window_row import NEVER, RowRules, WindowRow

HORIZON = 100


class Store:
    """Rows of a table, and what was loaded from it."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.loads: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        self.loads.append(key)
        return self.rows.get(key)

    def write(self, row: WindowRow) -> list[tuple[bytes, bytes | None]]:
        group = row.encode()
        for key, raw in group:
            if raw is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = raw
        return group


def rules(segment: int = 2, cap: int = 1_000, horizon: int = HORIZON) -> RowRules:
    return RowRules(horizon, cap, settings_hash=7, segment_entries=segment)


def row_of(*times: int, store: Store | None = None, **kind: int) -> WindowRow:
    """A row with an entry of 1 minor unit at each time; ids are the times."""
    row = WindowRow.read(b"k", rules(**kind), (store or Store()).get)
    for time in times:
        add(row, time)
    return row


def add(row: WindowRow, time: int, minor: int = 1, *, counted: bool = True) -> None:
    row.insert(time, minor, counted=counted, id8=struct.pack(">q", time))


def times_of(row: WindowRow) -> list[int]:
    return [time for time, *_ in row.entries()]


class TestWindows:
    def test_a_new_key_has_seen_nothing(self) -> None:
        row = row_of()
        assert (row.count, row.newest_ms, row.floor_ms, row.last_offset) == (0, NEVER, NEVER, -1)
        assert row.window(-1_000, 1_000) == (0, 0)
        assert row.newest_counted(1_000) is None
        assert not row.has(b"12345678")

    @pytest.mark.parametrize("segment", [1, 2, 3, 50])
    def test_the_left_edge_is_outside_and_the_right_edge_inside(self, segment: int) -> None:
        row = row_of(10, 20, 30, 40, 50, segment=segment)
        assert row.window(10, 30) == (2, 2)
        assert row.window(9, 30) == (3, 3)
        assert row.window(10, 29) == (1, 1)
        assert row.window(50, 60) == (0, 0)
        assert row.window(30, 30) == (0, 0)

    @pytest.mark.parametrize("segment", [1, 2, 3, 50])
    def test_equal_times_stand_in_the_order_of_arrival(self, segment: int) -> None:
        row = WindowRow.read(b"k", rules(segment), Store().get)
        for number in range(7):
            row.insert(5, number, counted=True, id8=bytes([number]) * 8)
        assert [minor for _, minor, _, _ in row.entries()] == list(range(7))
        assert row.window(4, 5) == (7, 21)
        assert row.window(5, 6) == (0, 0)

    @pytest.mark.parametrize("segment", [1, 2, 3, 50])
    def test_what_does_not_count_is_kept_and_recognised_only(self, segment: int) -> None:
        row = row_of(10, 20, 30, segment=segment)
        add(row, 15, 1_000, counted=False)
        add(row, 30, 1_000, counted=False)
        assert row.window(0, 100) == (3, 3)
        assert row.count == 5
        assert row.has(struct.pack(">q", 15))
        assert row.newest_counted(19) == 10
        assert row.newest_counted(9) is None

    def test_all_windows_equal_a_look_at_every_entry(self) -> None:
        numbers = random.Random(1)
        row = row_of(segment=4)
        for _ in range(300):
            time = numbers.randrange(200)
            add(row, time, numbers.randrange(9), counted=numbers.random() < 0.8)
            counted = [(at, minor) for at, minor, counts, _ in row.entries() if counts]
            for at in (time, time - 5, time + 5):
                lengths = (1, 3, 10, 50)
                within = [[m for t, m in counted if at - n < t <= at] for n in lengths]
                assert row.windows(at, lengths) == [(len(one), sum(one)) for one in within]
                assert row.known(at, lengths) == [(len(one), 0) for one in within]
                assert [row.window(at - n, at) for n in lengths] == row.windows(at, lengths)

    def test_an_id_is_known_for_as_long_as_its_entry_is_kept(self) -> None:
        """However often it was asked for, whatever was sealed, halved, read again or has left since."""
        numbers = random.Random(2)
        store = Store()
        row, sent = row_of(segment=4, cap=40, store=store), 0
        for round_ in range(400):
            for _ in range(numbers.randrange(4)):
                sent += 1
                time = round_ + numbers.randrange(-20, 3)
                row.insert(time, 1, counted=True, id8=sent.to_bytes(8, "big"))
            kept = {id8 for *_, id8 in row.entries()}
            for number in range(max(0, sent - 60), sent + 3):
                id8 = number.to_bytes(8, "big")
                assert row.has(id8) == (id8 in kept)
            if numbers.random() < 0.1:
                store.write(row)
                row = WindowRow.read(b"k", rules(segment=4, cap=40), store.get)
        assert len(row.refs) > 4

    def test_the_index_of_ids_counts_as_memory_and_forgets_what_has_left(self) -> None:
        row = row_of(*range(20), segment=2, horizon=1_000)
        assert row.index_bytes == 0
        row.has(b"never   ")
        assert row.index_bytes == 0  # a row that is asked once is searched
        row.has(b"never   ")
        full = row.index_bytes
        assert full > 0
        for time in range(1_010, 1_060):
            add(row, time)
            row.has(b"never   ")
        assert row.index_bytes < 2 * full * row.count / 20

    def test_a_whole_segment_is_not_loaded_for_a_window(self) -> None:
        store = Store()
        store.write(row_of(*range(10), store=store))
        row = WindowRow.read(b"k", rules(), store.get)
        assert len(row.refs) == 4
        store.loads.clear()
        assert row.window(-1, 9) == (10, 10)
        assert store.loads == []
        assert row.window(0, 9) == (9, 9)
        assert store.loads == [segment_key(b"k", 0)]


class TestLeaving:
    def test_an_entry_leaves_at_the_horizon_and_not_before(self) -> None:
        row = row_of(0, 1, HORIZON)
        assert times_of(row) == [1, HORIZON]  # 0 is a horizon behind
        assert row.floor_ms == 0
        add(row, HORIZON + 1)
        assert times_of(row) == [HORIZON, HORIZON + 1]
        assert row.floor_ms == 1

    def test_a_late_entry_beyond_the_horizon_leaves_at_once_and_raises_the_floor(self) -> None:
        row = row_of(1_000)
        add(row, 900, counted=False)
        assert times_of(row) == [1_000]
        assert row.floor_ms == 900

    @pytest.mark.parametrize("segment", [1, 2, 3, 50])
    def test_the_cap_takes_the_oldest(self, segment: int) -> None:
        row = row_of(*range(10), cap=4, segment=segment)
        assert times_of(row) == [6, 7, 8, 9]
        assert row.floor_ms == 5
        assert row.window(-1, 100) == (4, 4)

    @pytest.mark.parametrize("segment", [1, 2, 3])
    def test_the_floor_never_falls(self, segment: int) -> None:
        row = row_of(*range(10), cap=4, segment=segment)
        add(row, 2)  # older than everything that is kept: it is the one to go
        assert times_of(row) == [6, 7, 8, 9]
        assert row.floor_ms == 5

    def test_a_segment_is_cut_at_its_front_without_being_written_again(self) -> None:
        store = Store()
        store.write(row_of(*range(0, 60, 10), store=store))
        row = WindowRow.read(b"k", rules(), store.get)
        add(row, HORIZON + 5)
        group = store.write(row)
        assert [key for key, _ in group] == [head_key(b"k")]
        assert row.refs[0].skip == 1
        assert times_of(WindowRow.read(b"k", rules(), store.get))[0] == 10

    def test_a_segment_that_left_is_deleted_once(self) -> None:
        store = Store()
        row = row_of(*range(8), store=store)
        store.write(row)
        add(row, 3 + HORIZON)
        assert (segment_key(b"k", 0), None) in store.write(row)
        assert store.rows.keys() == {head_key(b"k"), segment_key(b"k", 2)}
        assert (segment_key(b"k", 0), None) not in store.write(row)

    def test_everything_may_leave(self) -> None:
        store = Store()
        row = row_of(*range(9), store=store)
        store.write(row)
        add(row, 10 * HORIZON)
        store.write(row)
        again = WindowRow.read(b"k", rules(), store.get)
        assert times_of(again) == [10 * HORIZON]
        assert again.floor_ms == 8
        assert set(store.rows) == {head_key(b"k")}


class TestSegments:
    def test_a_full_tail_is_halved(self) -> None:
        row = row_of(0, 1, 2)
        assert row.refs == []
        add(row, 3)
        assert [(ref.number, ref.count) for ref in row.refs] == [(0, 2)]
        assert len(row.tail) == 2

    def test_numbers_are_never_used_twice(self) -> None:
        store = Store()
        row = row_of(store=store)
        seen: set[int] = set()
        for time in range(0, 50 * HORIZON, HORIZON // 2):
            add(row, time)
            add(row, time)
            store.write(row)
            row = WindowRow.read(b"k", rules(), store.get)
            numbers = {ref.number for ref in row.refs}
            assert all(number > max(seen, default=-1) for number in numbers - seen)
            seen |= numbers

    def test_an_old_segment_that_fills_up_is_halved(self) -> None:
        row = row_of(0, 10, 20, 30)
        for time in (1, 2):
            add(row, time)
        assert [ref.count for ref in row.refs] == [2, 2]
        assert times_of(row) == [0, 1, 2, 10, 20, 30]
        assert row.window(0, 10) == (3, 3)

    def test_a_cut_segment_that_fills_up_loses_what_has_left(self) -> None:
        """Else each further entry would make a segment of its own, and the head would grow without bound."""
        limits = rules(segment=4, cap=100, horizon=1_000)
        row = WindowRow.read(b"k", limits, Store().get)
        for time in range(0, 160, 10):
            add(row, time)
        add(row, 1_025)  # of the first segment, 0, 10 and 20 have left
        assert row.refs[0].skip == 3
        for time in range(29, 25, -1):
            for _ in range(4):
                row.insert(time, 1, counted=True, id8=b"new-one!")
        assert all(ref.count >= 4 for ref in row.refs[1:])
        assert len(row.refs) <= 100 // 4 + 1
        assert row.window(25, 30) == (17, 17)

    @pytest.mark.parametrize("seed", range(6))
    def test_bounds_hold_and_rows_survive_storage(self, seed: int) -> None:
        numbers = random.Random(seed)
        limits = RowRules(5_000, numbers.choice((5, 40, 90)), 7, numbers.choice((1, 2, 4)))
        store, key = Store(), b"k" * 9
        row = WindowRow.read(key, limits, store.get)
        now = 0
        for number in range(700):
            now += numbers.choice((0, 1, 40))
            behind = numbers.choice((0, 0, numbers.randrange(5_100)))
            block = 1 + number % 7
            row.insert(now - behind, number, counted=number % 5 > 0, id8=struct.pack(">q", number))
            row.last_offset = number
            if number % block == 0:
                before = (list(row.entries()), row.floor_ms, row.newest_ms, row.count)
                group = store.write(row)
                size = sum(len(k) + len(raw or b"") + 100 for k, raw in group)
                assert size <= max_group_bytes(
                    limits, key_bytes=len(key), block_entries=7, record_bytes=100
                )
                head = store.rows[head_key(key)]
                assert len(head) <= max_head_bytes(limits)
                assert all(
                    raw is None or struct.unpack(">q", raw[:8])[0] == number for _, raw in group
                )
                row = WindowRow.read(key, limits, store.get)
                assert (list(row.entries()), row.floor_ms, row.newest_ms, row.count) == before
                assert row.last_offset == number
        live = {segment_key(key, ref.number) for ref in row.refs}
        store.write(row)
        assert set(store.rows) == live | {head_key(key)}, "no segment is left behind"

    def test_the_smallest_head_of_the_rules_is_possible(self) -> None:
        assert max_head_bytes(rules(cap=16, segment=256)) < 1_000
        default = RowRules(HORIZON, 20_000)
        needed = max_group_bytes(default, key_bytes=256, block_entries=20_000, record_bytes=100)
        assert needed < 1_048_576


class TestFormat:
    def test_segments_come_before_their_head(self) -> None:
        keys = [key for key, _ in row_of(*range(6)).encode()]
        assert keys == [segment_key(b"k", 0), segment_key(b"k", 1), head_key(b"k")]

    @pytest.mark.parametrize("damage", [b"", b"x", b"longer than a head " * 20])
    def test_a_damaged_head_is_refused(self, damage: bytes) -> None:
        with pytest.raises(RowFormatError, match="format"):
            WindowRow.read(b"k", rules(), {head_key(b"k"): damage}.get)

    def test_another_version_is_refused(self) -> None:
        (_, raw), *_ = row_of(1).encode()
        assert raw is not None
        other = raw[:8] + b"\x63" + raw[9:]
        with pytest.raises(RowFormatError, match="format 99"):
            WindowRow.read(b"k", rules(), {head_key(b"k"): other}.get)

    def test_a_missing_segment_is_named(self) -> None:
        store = Store()
        store.write(row_of(*range(6), store=store))
        del store.rows[segment_key(b"k", 1)]
        row = WindowRow.read(b"k", rules(), store.get)
        with pytest.raises(RowFormatError, match="segment 1 of the state row with last offset"):
            list(row.entries())

    @pytest.mark.parametrize(("one", "other"), [(b"a", b"ab"), (b"", b"\0"), (b"k", b"k\0\0\0\1")])
    def test_keys_of_rows_never_meet(self, one: bytes, other: bytes) -> None:
        numbers = (0, 1, 256, 0x01010101, 0xFFFFFFFF)
        rows = [
            {head_key(key), *(segment_key(key, number) for number in numbers)}
            for key in (one, other)
        ]
        assert rows[0].isdisjoint(rows[1])

    def test_columns_survive(self) -> None:
        entries = Entries()
        entries.base = 5
        for time in (3, 1, 2):
            entries.insert(time, time, counted=time != 2, id8=bytes([time]) * 8, start=0)
        again = Entries.from_columns(entries.behind(b"he", b"ad"), 4, 3)
        again.base, again.zeros = entries.base, entries.zeros
        assert list(again.each()) == list(entries.each())
        assert list(again.each()) == [
            (1, 1, True, b"\1" * 8),
            (2, 0, False, b"\2" * 8),
            (3, 3, True, b"\3" * 8),
        ]
