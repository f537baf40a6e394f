"""The rows that one block touches, and the reserved rows of a partition."""

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
    """How long a terminal's entries are kept, from the settings."""
    return RowRules(
        horizon_ms=terminal_horizon_ms(settings),
        max_entries=settings.max_entries_per_key,
        settings_hash=crc32(terminal_settings(settings).encode()),
        max_waiting=MAX_WAITING_LABELS,
        label_bytes=MAX_LABEL_BYTES + SOURCE_OVERHEAD_BYTES,
        own=len(own_of(settings).stage_fields("terminal")),
    )


def row_rules(settings: Settings) -> RowRules:
    """How long a card's entries are kept, from the settings."""
    return RowRules(
        horizon_ms=card_horizon_ms(settings),
        max_entries=settings.max_entries_per_key,
        settings_hash=crc32(state_settings(settings).encode()),
        own=len(own_of(settings).stage_fields("card")),
    )


def rows_room_bytes(settings: Settings) -> int:
    """Room for decoded rows of one partition of a table, its part of `state_memory_mb`."""
    return (settings.state_memory_mb << 20) // 3 // (2 * settings.partitions)


#: Labels that wait at one terminal for their transactions.
MAX_WAITING_LABELS = 64
#: Room for rows that stay decoded, where nobody says otherwise.
ROWS_ROOM_BYTES = 16 << 20
#: What a decoded row takes besides its entries, and what an entry takes.
_ROW_BYTES, _ENTRY_BYTES = 1000, 24


class RowCache:
    """Rows that stay decoded between blocks: decoding them for each block took a quarter of a stage's time.

    The longest unused go when there is no more room. Only the newest state of a partition may be in
    here: the cache lives and ends with the partition's assignment (`RowReader.memo`).
    """

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._rows: OrderedDict[bytes, tuple[WindowRow, int]] = OrderedDict()

    def get(self, key: bytes) -> WindowRow | None:
        """The row, if it is still here."""
        kept = self._rows.get(key)
        return None if kept is None else kept[0]

    def put(self, row: WindowRow) -> None:
        """Keep a row as the one used last."""
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
        rules: how long entries are kept.
        state: where rows are read.
        room_bytes: for rows that stay decoded until the partition's next block.
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
        """The row of a card or terminal, as the block has left it so far."""
        row = self._rows.get(key)
        if row is None:
            row = self._cache.get(key) or WindowRow.read(key, self._rules, self._state.get)
            if row.last_offset < 0 and self._deletions:
                self._begin_again(row)
            self._rows[key] = row
        return row

    def _begin_again(self, row: WindowRow) -> None:
        """A row that was deleted for good proves as much as one that is there: what precedes that is a replay."""
        head = head_key(row.key)
        row.last_offset = self._deletions.offset(head)
        row.next_segment = self._deletions.number(head)

    def delete(self, key: bytes, offset: int) -> bool:
        """Delete what is kept of a key, because a record says so: False when that has been done already.

        Its next transaction begins from scratch.
        """
        row = self.read(key)
        if offset <= row.last_offset:
            return False
        keys = [head_key(key), *(segment_key(key, ref.number) for ref in row.refs)]
        deletions = self._deletions
        for each in reversed(keys):  # the head's is what a replay is known by: it goes last of them
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
        """Claim a record for its row: False when the row has its effect already."""
        if offset < row.last_offset or (offset == row.last_offset and row.key not in self._changed):
            return False
        row.last_offset = offset
        self._changed[row.key] = row
        return True

    def groups(self) -> list[RowGroup]:
        """The changed rows, encoded, a group a key."""
        groups = [*self._deleted, *(row.encode() for row in self._changed.values())]
        for row in self._rows.values():
            self._cache.put(row)
        return groups


@dataclass
class StatePosition:
    """How far a partition's state has come; written with every block, behind all its rows.

    Attributes:
        last_offset: every record up to here is in the state, its outputs durable.
        settings: `state_settings` under which the state was built.
        unnamed: feature schema of messages on `enriched` that do not say theirs: release 0.1.0 sent them.
        seen: highest source offset by partition of `transactions` (terminal stage): at or below it lies a
            replay.
        labels: the same by topic and partition of labels.
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
        """Everything up to an offset is in the state, under these settings."""
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
        """Refuse to go on with a state that does not fit the source topic or the settings.

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
        # The state is always ahead of the commit. It is behind when the changelog was deleted, and in a
        # worker that was stopped between recovery and here while others took over: its features, and
        # the outputs that it would send before its first changelog record is refused, would be wrong.
        if start > max(self.last_offset + 1, log_start):
            msg = (
                f"{where} was read up to {start}, but its state contains it only up to {self.last_offset}: start "
                "again; if that does not help, its changelog was deleted: start with another "
                "FRAUDSTREAM_APP_ID to build the state again from the log"
            )
            raise StateError(msg)
        differing = differences(self.settings, settings) if self.last_offset >= 0 else None
        if differing:
            was, now = differing
            msg = (
                f"the state of {where} was built with {was}, but the settings are {now} (and "
                f"FRAUDSTREAM_MODEL={model}): restore these settings{_before(was, model)}, or start with another "
                "FRAUDSTREAM_APP_ID, after `fraudstream topics` with the same, to build the state from the log"
            )
            raise SettingsError(msg)


def _before(was: str, model: str) -> str:
    """How a state that was built with the defaults of earlier releases stays as it is."""
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
    """Which model scored from which offset on, as release 0.1.0 wrote it down at each start.

    Args:
        pins: (first offset, model hash), rising.
    """

    def __init__(self, pins: list[tuple[int, str]]) -> None:
        self.pins = pins

    @classmethod
    def read(cls, raw: bytes | None) -> "ModelOffsets":
        """The stored pins, none for a partition that is new since."""
        return cls([] if raw is None else _pins_decoder.decode(raw[8:]))

    def encode(self) -> Row:
        """The reserved row."""
        return PINS_KEY, bytes(8) + _pins_encoder(self.pins)

    def models_of(self, start: int, log_end: int) -> list[str]:
        """Hashes of the models that score what stands from one offset on up to the end."""
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
    """What decides, as the reserved row says; None for a partition that no worker of this release has opened."""
    return None if raw is None else _in_force_decoder.decode(raw[8:])


def in_force_row(in_force: InForce, offset: int) -> Row:
    """The reserved row.

    Args:
        in_force: what decides.
        offset: of the change that made it so on `enriched`; -1 for what a deployment starts with.
    """
    return IN_FORCE_KEY, offset.to_bytes(8, "big", signed=True) + _pins_encoder(in_force)
