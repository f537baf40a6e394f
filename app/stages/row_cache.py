"""Rows that stay decoded between blocks, and how much memory they may take."""

from collections import OrderedDict

from app.settings import Settings
from app.windows.entries import ID_BYTES
from app.windows.window_row import WindowRow

#: Default memory for rows that stay decoded.
ROWS_ROOM_BYTES = 16 << 20
#: Memory of a decoded row without its entries, and of one entry.
_ROW_BYTES, _ENTRY_BYTES = 1000, 24


def rows_room_bytes(settings: Settings) -> int:
    """Memory for decoded rows of one partition of a table: its share of `state_memory_mb`."""
    return (settings.state_memory_mb << 20) // 3 // (2 * settings.partitions)


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
