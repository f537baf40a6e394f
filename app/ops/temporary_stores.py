"""Stores of rows that a command has for itself: a RocksDB with the options of our tables, thrown away afterwards."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rocksdict

from app.blocks.core.row_groups import RowGroup
from app.blocks.faust.rocksdb_options import StoreOptions

#: Block cache and buffered writes of a store that one process has to itself.
_STORE_BYTES = 128 << 20


@contextmanager
def open_store(folder: Path) -> Iterator[Any]:
    """A RocksDB with the options of our tables, made if it is not there."""
    database = StoreOptions(_STORE_BYTES, 1).open(folder)
    try:
        yield database
    finally:
        database.close()


class StoredRows:
    """Rows in a store: see `app.blocks.core.partition.RowReader`.

    Attributes:
        memo: see there.
    """

    def __init__(self, database: Any) -> None:
        self.memo: dict[str, Any] = {}
        self._database = database

    def get(self, key: bytes) -> bytes | None:
        """The bytes of a row, None when there is none."""
        raw: bytes | None = self._database.get(key)
        return raw

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The rows whose keys start with a prefix."""
        return [(key, raw) for key, raw in self.items() if key.startswith(prefix)]

    def put(self, groups: Sequence[RowGroup]) -> None:
        """Take changed rows, all or nothing."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for group in groups:
            for key, raw in group:
                if raw is None:
                    batch.delete(key)
                else:
                    batch.put(key, raw)
        self._database.write(batch)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every row, in the order of keys."""
        yield from self._database.items()


@contextmanager
def scratch_rows(folder: Path) -> Iterator[StoredRows]:
    """An empty state on disk: that of one partition may be larger than memory.

    Args:
        folder: where to make it; it is gone afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="state-") as place,
        open_store(Path(place) / "db") as database,
    ):
        yield StoredRows(database)
