"""The rows of cards or terminals that one block reads and changes, and how long their entries are retained."""

from zlib import crc32

from app.blocks.core.partition import RowReader
from app.blocks.core.row_groups import RowGroup
from app.blocks.core.row_precedence import DELETED_KEY, Deletions
from app.settings import Settings
from app.stages.deployed_features import card_horizon_ms, terminal_horizon_ms
from app.stages.row_cache import ROWS_ROOM_BYTES, RowCache
from app.stages.state_settings import state_settings, terminal_settings
from app.windows.row_format import head_key, segment_key
from app.windows.waiting_labels import MAX_WAITING_LABELS
from app.windows.window_row import RowRules, WindowRow
from app.wire.label_records import MAX_LABEL_BYTES, SOURCE_OVERHEAD_BYTES
from app.wire.own_features_file import own_of


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
