"""The rows that a block touches, and the reserved rows: position and pins."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from faust.types import TP

from app.blocks.core.row_precedence import row_offset
from app.domain.changes_in_force import InForce
from app.errors import NotAnsweringError, SchemaError, SettingsError, StateError
from app.settings import load_settings
from app.stages.block_rows import BlockRows, row_rules
from app.stages.known_topics import TOPICS_KEY, KnownTopics
from app.stages.partition_start import bind_model, check_state, check_topics_known
from app.stages.reserved_rows import IN_FORCE_KEY, POSITION_KEY, ModelOffsets, StatePosition
from app.stages.row_cache import RowCache
from app.stages.state_settings import state_settings
from app.windows.row_format import RowRules, head_key
from tests.fakes import Rows

RULES = RowRules(1_000, 100, 7, 4)


class TestBlockRows:
    def test_a_record_is_claimed_once(self) -> None:
        state = Rows()
        rows = BlockRows(RULES, state)
        row = rows.read(b"k")
        assert rows.advance(row, 5)
        assert not rows.advance(row, 4)
        for group in rows.groups():
            state.write(group)
        again = BlockRows(RULES, Rows(state.rows))
        row = again.read(b"k")
        assert row.last_offset == 5
        assert not again.advance(row, 5), "its effect is in the row, its outputs are durable"
        assert again.advance(row, 6)

    def test_one_message_may_touch_a_row_twice(self) -> None:
        rows = BlockRows(RULES, Rows())
        row = rows.read(b"k")
        assert rows.advance(row, 5)
        assert rows.advance(row, 5)

    def test_a_row_is_read_once_and_only_changed_rows_are_written(self) -> None:
        rows = BlockRows(RULES, Rows())
        assert rows.read(b"a") is rows.read(b"a")
        rows.read(b"b")
        rows.advance(rows.read(b"a"), 0)
        assert [[key for key, _ in group] for group in rows.groups()] == [[head_key(b"a")]]

    def test_rows_stay_decoded_for_the_next_block_of_the_same_state(self) -> None:
        state = Rows()
        first = BlockRows(RULES, state)
        row = first.read(b"k")
        first.advance(row, 1)
        first.groups()
        assert BlockRows(RULES, state).read(b"k") is row
        state.memo.clear()  # the partition was given up
        assert BlockRows(RULES, state).read(b"k") is not row

    def test_a_kept_row_does_not_claim_its_offset_again(self) -> None:
        state = Rows()
        first = BlockRows(RULES, state)
        first.advance(first.read(b"k"), 1)
        first.groups()
        later = BlockRows(RULES, state)
        assert not later.advance(later.read(b"k"), 1)

    def test_the_cache_forgets_the_longest_unused(self) -> None:
        cache = RowCache(room_bytes=3_000)
        rows = BlockRows(RULES, Rows())
        for key in (b"a", b"b", b"c", b"a", b"d"):
            cache.put(rows.read(key))
        assert [cache.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [
            True, False, True, True,
        ]  # fmt: skip

    def test_a_row_larger_than_the_cache_is_not_kept(self) -> None:
        cache = RowCache(room_bytes=10)
        cache.put(BlockRows(RULES, Rows()).read(b"a"))
        assert cache.get(b"a") is None
        assert cache._room == 10


class TestPosition:
    def test_it_survives(self) -> None:
        position = StatePosition(7, "windows=1h", {0: 3, 900: 1 << 40})
        key, raw = position.encode()
        assert key == POSITION_KEY
        assert raw is not None
        assert raw[:8] == (7).to_bytes(8, "big")
        assert StatePosition.read(Rows({key: raw}), "other") == position

    def test_a_new_partition_has_none(self) -> None:
        assert StatePosition.read(Rows(), "s") == StatePosition(-1, "s", {})

    @pytest.mark.parametrize(
        ("position", "log", "start"),
        [
            (StatePosition(-1, "s"), (0, 0), 0),
            (StatePosition(-1, "s"), (0, 10), 0),
            (StatePosition(-1, "s"), (5, 10), 5),
            (StatePosition(9, "s"), (0, 10), 10),
            (StatePosition(9, "s"), (0, 10), 3),
            (StatePosition(9, "s"), (50, 60), 50),
        ],
    )
    def test_what_fits(self, position: StatePosition, log: tuple[int, int], start: int) -> None:
        position.check("t/0", "s", log_start=log[0], log_end=log[1], start=start)

    @pytest.mark.parametrize(
        ("position", "log", "start", "text"),
        [
            (StatePosition(10, "s"), (0, 10), 5, "deleted and created again"),
            (
                StatePosition(9, "s"),
                (0, 20),
                11,
                "was read up to 11, but its state contains it only up to 9",
            ),
            (StatePosition(), (0, 20), 1, "was read up to 1"),
            (StatePosition(), (5, 20), 6, "was read up to 6"),
        ],
    )
    def test_what_does_not(
        self, position: StatePosition, log: tuple[int, int], start: int, text: str
    ) -> None:
        with pytest.raises((SchemaError, StateError), match=text):
            position.check("t/0", "s", log_start=log[0], log_end=log[1], start=start)

    def test_other_settings_are_named(self) -> None:
        position = StatePosition(3, "windows=1h,1d currency=EUR")
        told = (
            r"built with FRAUDSTREAM_WINDOWS=1h,1d, but the settings are FRAUDSTREAM_WINDOWS=1h "
            r"\(and FRAUDSTREAM_MODEL=engineered\): restore"
        )
        now = "windows=1h currency=EUR"
        with pytest.raises(SettingsError, match=told):
            position.check("t/0", now, log_start=0, log_end=9, start=4, model="engineered")
        moved = StatePosition(-1, "a")  # the state is of another generation's topic
        with pytest.raises(SettingsError, match="restore these settings"):
            moved.check("t/0", "b", log_start=0, log_end=0, start=0)

    def test_every_setting_that_shapes_rows_counts(self) -> None:
        base = load_settings({"features": "basic"})
        changed = [
            {"windows": "1h,2h"}, {"allowed_lateness": "2d"}, {"max_entries_per_key": 17},
            {"currency": "USD"},
        ]  # fmt: skip
        made = [load_settings({"features": "basic", **change}) for change in changed]
        texts = {state_settings(one) for one in made} | {state_settings(base)}
        hashes = {row_rules(one).settings_hash for one in made}
        assert len(texts) == len(changed) + 1
        assert len(hashes) == len(changed)


class TestPins:
    """```text
    log      0 ......... 10 ......... 20 ....
    model    a           b            a
    ```"""

    def test_each_offset_has_its_model(self) -> None:
        pins = ModelOffsets.read(ModelOffsets([(0, "a"), (10, "b"), (20, "a")]).encode()[1])
        assert [pins.model_at(offset) for offset in (0, 9, 10, 19, 20, 99)] == list("aabbaa")


class Source:
    """Where a log begins and ends."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.end)

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.first)


def named(model_hash: str) -> Callable[[], Awaitable[str]]:
    """A registry that answers."""

    async def begins_with() -> str:
        return model_hash

    return begins_with


async def away() -> str:
    """A registry that does not: nobody may ask it."""
    raise NotAnsweringError


async def known_by(table: Any, present: dict[str, str]) -> None:
    """As an agent checks it."""
    await check_topics_known(
        table, 1, present, lambda names: SchemaError(str(names)), changelog="t-changelog"
    )


class TestStart:
    def table(self, *rows: Any) -> Any:
        state = Rows(dict(rows))
        written: list[Any] = []

        async def write(partition: int, rows: list[Any]) -> None:
            written.append((partition, rows))
            state.write(rows)

        return SimpleNamespace(reader=lambda partition: state, write=write, written=written)

    async def test_the_end_of_the_log_is_returned(self) -> None:
        table = self.table(StatePosition(4, "s").encode())
        assert await check_state(Source(0, 9), table, TP("t", 1), 5, "s") == 9

    async def test_a_state_behind_the_commit_is_refused(self) -> None:
        table = self.table(StatePosition(3, "s").encode())
        with pytest.raises(StateError, match="t/1 was read up to 5"):
            await check_state(Source(0, 9), table, TP("t", 1), 5, "s")

    async def test_topics_are_adopted_once_and_others_are_refused(self) -> None:
        table = self.table()
        for present in ({"t": "one"}, {"t": "one"}, {"t": "one", "u": "two"}):
            await known_by(table, present)
        assert len(table.written) == 2
        known = KnownTopics.read(table.reader(1).get(TOPICS_KEY))
        assert (known.ids, known.changes) == ({"t": "one", "u": "two"}, 2)
        with pytest.raises(SchemaError, match=r"\['u'\]"):
            await known_by(table, {"t": "one", "u": "three"})
        # brokers without ids, and topics that are not there, say nothing
        await known_by(table, {})
        assert len(table.written) == 2

    async def test_a_changelog_that_was_created_again_under_a_worker_is_refused(self) -> None:
        """What the worker wrote into it before it stopped looks like a state, but is one block."""
        block = StatePosition(4, "s").encode()
        with pytest.raises(SchemaError, match="t-changelog"):
            await known_by(self.table(block), {"t": "one"})
        table = self.table()
        await known_by(table, {})  # of brokers without ids
        table.reader(1).write([block])
        await known_by(table, {"t": "one"})
        # release 0.1.0 wrote no ids, and two values
        old = (block[0], (4).to_bytes(8, "big") + msgspec.msgpack.encode(("s", {})))
        await known_by(self.table(old), {"t": "one"})

    def test_models_of_what_is_left(self) -> None:
        pins = ModelOffsets([(0, "a"), (5, "b"), (9, "c")])
        for start, expected in ((0, "abc"), (4, "abc"), (5, "bc"), (8, "bc"), (9, "c"), (12, "")):
            assert "".join(pins.models_of(start, 12)) == expected
        assert pins.models_of(9, 9) == []
        assert ModelOffsets([]).models_of(0, 9) == []

    async def test_what_decides_is_bound_once(self) -> None:
        """Another setting of a later start, and of another worker, changes nothing."""
        table = self.table()
        first = await bind_model(table, 2, 7, named("a"), 0.4)
        assert first == InForce(0, "a", 0.4)
        assert await bind_model(table, 2, 9, away, None) == first
        ((partition, [(key, raw)]),) = table.written
        assert (partition, key, row_offset(raw)) == (2, IN_FORCE_KEY, -1)

    async def test_what_an_older_release_bound_keeps_deciding_what_it_left(self) -> None:
        table = self.table(ModelOffsets([(0, "a"), (5, "b")]).encode())
        assert await bind_model(table, 2, 7, named("c"), None) == InForce(7, "c")
