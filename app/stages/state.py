"""The rows that one block reads and changes, and the reserved rows of a partition."""

from collections import OrderedDict
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from app.blocks.core.deletions import DELETED_KEY, Deletions
from app.blocks.core.partition import RowReader
from app.blocks.core.rows import Row, RowGroup
from app.domain.changes import InForce
from app.errors import SchemaError, SettingsError, StateError
from app.settings import Settings
from app.stages.deployed_features import card_horizon_ms, terminal_horizon_ms
from app.stages.state_settings import (
    as_now,
    differences,
    is_of_before,
    schema_of_before,
    state_settings,
    stored_settings,
    terminal_settings,
)
from app.windows.entries import ID_BYTES
from app.windows.row_format import head_key, segment_key
from app.windows.window_row import RowRules, WindowRow
from app.wire.label_records import MAX_LABEL_BYTES, SOURCE_OVERHEAD_BYTES
from app.wire.own_catalogue import own_of

#: Reserved rows start with a null byte; rows of cards and terminals with a letter.
POSITION_KEY = b"\0position"
PINS_KEY = b"\0pins"
IN_FORCE_KEY = b"\0in-force"


def terminal_rules(settings: Settings) -> RowRules:
    """The retention rules of a terminal's entries, from the settings."""
    return RowRules(
        horizon_ms=terminal_horizon_ms(settings),
        max_entries=settings.max_entries_per_key,
        settings_hash=crc32(terminal_settings(settings).encode()),
        max_waiting=MAX_WAITING_LABELS,
        label_bytes=MAX_LABEL_BYTES + SOURCE_OVERHEAD_BYTES,
        own=len(own_of(settings).stage_fields("terminal")),
    )


def row_rules(settings: Settings) -> RowRules:
    """The retention rules of a card's entries, from the settings."""
    return RowRules(
        horizon_ms=card_horizon_ms(settings),
        max_entries=settings.max_entries_per_key,
        settings_hash=crc32(state_settings(settings).encode()),
        own=len(own_of(settings).stage_fields("card")),
    )


def rows_room_bytes(settings: Settings) -> int:
    """Memory for decoded rows of one partition of a table: its share of `state_memory_mb`."""
    return (settings.state_memory_mb << 20) // 3 // (2 * settings.partitions)


#: Largest number of labels that wait at one terminal for their transactions.
MAX_WAITING_LABELS = 64
#: Default memory for rows that stay decoded.
ROWS_ROOM_BYTES = 16 << 20
#: Memory of a decoded row without its entries, and of one entry.
_ROW_BYTES, _ENTRY_BYTES = 1000, 24


class RowCache:
    """Rows that stay decoded between blocks: decoding them for each block took a quarter of a stage's time.

    The least recently used rows are dropped when memory runs out. The cache may contain only the newest state of a
    partition: it is dropped with the partition's assignment (`RowReader.memo`).
    """

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._rows: OrderedDict[bytes, tuple[WindowRow, int]] = OrderedDict()

    def get(self, key: bytes) -> WindowRow | None:
        """The row, if it is cached."""
        kept = self._rows.get(key)
        return None if kept is None else kept[0]

    def put(self, row: WindowRow) -> None:
        """Cache a row as the most recently used one."""
        before = self._rows.pop(row.key, None)
        entry = _ENTRY_BYTES + ID_BYTES * row.rules.own
        size = _ROW_BYTES + entry * len(row.tail.times)
        if row.refs:
            size = _ROW_BYTES + entry * row.count + row.index_bytes
        self._rows[row.key] = (row, size)
        self._room += (before[1] if before else 0) - size
        while self._room < 0:
            self._room += self._rows.popitem(last=False)[1][1]


class BlockRows:
    """Decoded rows of one block: each is read once and written once.

    Args:
        rules: retention rules of entries.
        state: reads rows.
        room_bytes: memory for rows that stay decoded until the partition's next block.
    """

    def __init__(
        self, rules: RowRules, state: RowReader, room_bytes: int = ROWS_ROOM_BYTES
    ) -> None:
        self._rules = rules
        self._state = state
        self._cache: RowCache = state.memo.setdefault("rows", RowCache(room_bytes))
        self._rows: dict[bytes, WindowRow] = {}
        self._changed: dict[bytes, WindowRow] = {}
        self._deleted: list[RowGroup] = []
        if "deletions" not in state.memo:
            state.memo["deletions"] = Deletions.read(state.get(DELETED_KEY))
        self._deletions: Deletions = state.memo["deletions"]

    def read(self, key: bytes) -> WindowRow:
        """The row of a card or terminal, with the block's changes so far."""
        row = self._rows.get(key)
        if row is None:
            row = self._cache.get(key) or WindowRow.read(key, self._rules, self._state.get)
            if row.last_offset < 0 and self._deletions:
                self._begin_again(row)
            self._rows[key] = row
        return row

    def _begin_again(self, row: WindowRow) -> None:
        """A row that was deleted proves as much as a stored one: a record before the deletion is a replay."""
        head = head_key(row.key)
        row.last_offset = self._deletions.offset(head)
        row.next_segment = self._deletions.number(head)

    def delete(self, key: bytes, offset: int) -> bool:
        """Delete the rows of a key at an erase record; False if that was done already.

        The key's next transaction starts from scratch.
        """
        row = self.read(key)
        if offset <= row.last_offset:
            return False
        keys = [head_key(key), *(segment_key(key, ref.number) for ref in row.refs)]
        deletions = self._deletions
        for each in reversed(
            keys
        ):  # a replay is recognised by the head row's deletion, so it comes last
            deletions.add(each, offset, row.next_segment)
        keys += [segment_key(key, number) for number in row.dropped]
        self._deleted.append([deletions.row(offset), *((each, None) for each in keys)])
        self._changed.pop(key, None)
        row = self._rows[key] = WindowRow(key, self._rules, self._state.get)
        self._begin_again(row)
        return True

    def touched(self) -> list[WindowRow]:
        """The rows that the block has read so far."""
        return list(self._rows.values())

    def advance(self, row: WindowRow, offset: int) -> bool:
        """Mark a record as applied to its row; False if it was applied before."""
        if offset < row.last_offset or (offset == row.last_offset and row.key not in self._changed):
            return False
        row.last_offset = offset
        self._changed[row.key] = row
        return True

    def groups(self) -> list[RowGroup]:
        """The changed rows, encoded, one group per key."""
        groups = [*self._deleted, *(row.encode() for row in self._changed.values())]
        for row in self._rows.values():
            self._cache.put(row)
        return groups


@dataclass
class StatePosition:
    """The reserved row with the position of a partition's state; written with every block, after all its other rows.

    Attributes:
        last_offset: every record up to here is in the state, its outputs durable.
        settings: `state_settings` under which the state was built.
        unnamed: feature schema of messages on `enriched` that name none: release 0.1.0 sent them.
        seen: deduplication offsets (terminal stage): by partition of `transactions`, the highest source offset that was
            processed; an item at or below it is a replay.
        labels: the same for labels, by topic and partition.
    """

    last_offset: int = -1
    settings: str = ""
    seen: dict[int, int] = field(default_factory=dict)
    labels: dict[str, dict[int, int]] = field(default_factory=dict)
    unnamed: str = ""

    @classmethod
    def read(cls, state: RowReader, settings: str) -> "StatePosition":
        """The stored position, or that of a new partition."""
        raw = state.get(POSITION_KEY)
        return cls(settings=settings) if raw is None else cls.decode(raw, settings)

    @classmethod
    def decode(cls, raw: bytes, settings: str) -> "StatePosition":
        """The position of a stored row."""
        stored = _position_decoder.decode(raw[8:])
        last_offset = int.from_bytes(raw[:8], "big", signed=True)
        built, unnamed = stored.settings, stored.unnamed
        if is_of_before(built):
            built, unnamed = as_now(built, settings), schema_of_before(built)
        return cls(last_offset, built, stored.seen, stored.labels, unnamed)

    def advance(self, offset: int, settings: str) -> None:
        """Record that everything up to an offset is in the state, under these settings."""
        self.last_offset = offset
        self.settings = stored_settings(self.settings, settings)

    def encode(self) -> Row:
        """The reserved row."""
        body = msgspec.msgpack.encode((self.settings, self.seen, self.labels, self.unnamed))
        return POSITION_KEY, self.last_offset.to_bytes(8, "big", signed=True) + body

    def check(
        self,
        where: str,
        settings: str,
        *,
        log_end: int,
        log_start: int,
        start: int,
        model: str = "default@1",
    ) -> None:
        """Refuse a state that does not fit the source topic or the settings.

        Args:
            where: topic and partition, for the error.
            settings: `state_settings` of this start.
            log_end: offset after the last record of the source partition.
            log_start: offset of its first record.
            start: offset at which it will be read: the committed one, or the first.
            model: the setting, for the error.

        Raises:
            SchemaError, StateError: it does not fit the topic; the text says what differs and what to do.
            SettingsError: it was built with other settings.
        """
        if self.last_offset >= log_end:
            msg = (
                f"the state contains offset {self.last_offset} of {where}, which ends at {log_end}: the "
                "topic was deleted and created again; start with another FRAUDSTREAM_APP_ID, after `fraudstream "
                "topics` with the same, to build the state from the topic as it is now"
            )
            raise SchemaError(msg)
        # The state is normally ahead of the commit. It is behind if the changelog was deleted, or if this worker was
        # frozen between recovery and this check while others took over. Its features would be wrong, and so would be
        # the outputs that it sends before its first changelog record is refused.
        if start > max(self.last_offset + 1, log_start):
            msg = (
                f"{where} was read up to {start}, but its state contains it only up to {self.last_offset}: start "
                "again; if that does not help, its changelog was deleted: start with another "
                "FRAUDSTREAM_APP_ID to build the state again from the log"
            )
            raise StateError(msg)
        differing = differences(self.settings, settings)
        if differing:
            was, now = differing
            msg = (
                f"the state of {where} was built with {was}, but the settings are {now} (and "
                f"FRAUDSTREAM_MODEL={model}): restore these settings{_before(was, model)}, or start with another "
                "FRAUDSTREAM_APP_ID, after `fraudstream topics` with the same, to build the state from the log"
            )
            raise SettingsError(msg)


def _before(was: str, model: str) -> str:
    """How to keep a state that was built with the defaults of earlier releases."""
    if "FEATURES" not in was or model != "default":
        return ""
    return " (for the defaults of earlier releases: FRAUDSTREAM_FEATURES=basic FRAUDSTREAM_MODEL=default@1)"


class _StoredPosition(msgspec.Struct, array_like=True):
    settings: str
    seen: dict[int, int]
    labels: dict[str, dict[int, int]] = {}
    unnamed: str = ""


_position_decoder = msgspec.msgpack.Decoder(_StoredPosition)


class ModelOffsets:
    """The model that scores from each offset on, as release 0.1.0 stored it at each start (the row `pins`).

    Args:
        pins: pairs of first offset and model hash, in order of offsets.
    """

    def __init__(self, pins: list[tuple[int, str]]) -> None:
        self.pins = pins

    @classmethod
    def read(cls, raw: bytes | None) -> "ModelOffsets":
        """The stored pairs; none for a partition of a later release."""
        return cls([] if raw is None else _pins_decoder.decode(raw[8:]))

    def encode(self) -> Row:
        """The reserved row."""
        return PINS_KEY, bytes(8) + _pins_encoder(self.pins)

    def models_of(self, start: int, log_end: int) -> list[str]:
        """Hashes of the models that score the records from an offset on to the end."""
        ends = [*(first for first, _ in self.pins[1:]), log_end][: len(self.pins)]
        return [
            model for (_, model), end in zip(self.pins, ends, strict=True) if start < end <= log_end
        ]

    def model_at(self, offset: int) -> str:
        """Hash of the model that scores this offset."""
        return next(model for first, model in reversed(self.pins) if first <= offset)


_pins_encoder = msgspec.msgpack.Encoder().encode
_pins_decoder = msgspec.msgpack.Decoder(list[tuple[int, str]])
_in_force_decoder = msgspec.msgpack.Decoder(InForce)


def read_in_force(raw: bytes | None) -> InForce | None:
    """The changes in force, from the reserved row; None for a partition that no worker of this release has opened."""
    return None if raw is None else _in_force_decoder.decode(raw[8:])


def in_force_row(in_force: InForce, offset: int) -> Row:
    """The reserved row.

    Args:
        in_force: the changes in force.
        offset: offset on `enriched` of the newest change; -1 for what a deployment starts with.
    """
    return IN_FORCE_KEY, offset.to_bytes(8, "big", signed=True) + _pins_encoder(in_force)
