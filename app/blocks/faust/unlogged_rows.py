"""Rows of a rebuild: written to the local store past RocksDB's write-ahead log, because Kafka still has them."""

from collections.abc import Callable
from typing import Any

import rocksdict

_UNLOGGED = rocksdict.WriteOptions()
_UNLOGGED.disable_wal = True


class UnloggedRows:
    """Writes that a crash may take: the newest of them are lost together with the changelog offset they end at.

    What is logged after them would outlive them, and its offset would be wrong: `flush` them first.

    Args:
        database: the store of a partition. It is asked for each time: a revoked store is closed by dropping its last
            reference.
    """

    def __init__(self, database: Callable[[int], Any]) -> None:
        self._database = database
        self._partitions: set[int] = set()

    def write(self, partition: int, batch: Any) -> None:
        """Write rows and their changelog offset, all or nothing."""
        self._partitions.add(partition)
        self._database(partition).write(batch, _UNLOGGED)

    def flush(self, partition: int) -> None:
        """Bring what was written to the disk."""
        if partition in self._partitions:
            self._database(partition).flush()
            self._partitions.discard(partition)
