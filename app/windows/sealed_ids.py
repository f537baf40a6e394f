"""Which transaction ids the segments of a heavy key hold: one look, where each segment had to be searched."""

from array import array
from collections.abc import Iterable

from app.windows.entries import ID_BYTES


class SealedIds:
    """A superset of the ids in a row's segments: what is not in it is in none of them.

    Ids that leave their segment stay in here, so what is in it must be looked for. Lives in memory only.

    Args:
        columns: the ids of each segment, eight bytes an entry.
    """

    #: What an id takes here, bytes: an integer and its share of the set's table.
    ID_BYTES = 90

    __slots__ = ("_ids",)

    def __init__(self, columns: Iterable[bytes | bytearray]) -> None:
        self._ids: set[int] = set()
        for ids in columns:
            self.add(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id8: bytes) -> bool:
        return array("q", id8)[0] in self._ids

    def add(self, ids: bytes | bytearray) -> None:
        """Take more ids, eight bytes each."""
        assert len(ids) % ID_BYTES == 0
        self._ids.update(array("q", bytes(ids)))
