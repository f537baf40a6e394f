"""What recovery writes past RocksDB's log, on a real RocksDB of a process that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.blocks.faust.rocksdb_options import StoreOptions

CHILD = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from app.blocks.faust.rocksdb_options import StoreOptions
from app.blocks.faust.block_table import BlockTable
from app.blocks.faust.unlogged_rows import UnloggedRows

class Stores:
    offset_key = b"__faust\\0offset__"
    def __init__(self):
        self.database = StoreOptions(8 << 20, 1).open(Path(sys.argv[1]))
    def _db_for_partition(self, _):
        return self.database
    def persisted_offset(self, _):
        return None

table = object.__new__(BlockTable)
table._data, table._stale, table._changelog_name = Stores(), {}, "c"
table._deleted, table._unlogged = {}, UnloggedRows(table._database)
row = (1).to_bytes(8, "big") + bytes(1_000)
records = [SimpleNamespace(key=b"%d" % n, value=row) for n in range(100)]
message = SimpleNamespace(partition=0, offset=99)
table.apply_changelog_batch([SimpleNamespace(value=records, message=message)])
if sys.argv[2] == "live":
    table.store(0, [(b"new", row)], 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by(folder: Path, what: str) -> dict[bytes, bytes]:
    killed = subprocess.run([sys.executable, "-c", CHILD, str(folder), what], check=False)
    assert killed.returncode == -9
    database = StoreOptions(8 << 20, 1).open(folder)
    try:
        return dict(database.items())
    finally:
        database.close()


def test_a_block_behind_recovery_makes_its_rows_durable(tmp_path: Path) -> None:
    rows = left_by(tmp_path / "rows", "live")
    assert rows[b"__faust\0offset__"] == b"100"
    assert len(rows) == 102


def test_a_kill_in_recovery_leaves_rows_and_offset_of_one_moment(tmp_path: Path) -> None:
    rows = left_by(tmp_path / "rows", "recovery")
    assert len(rows) in (0, 101), "some of one batch"


@pytest.mark.parametrize(("memory", "stores"), [(256 << 20, 8), (256 << 20, 256), (16 << 20, 2)])
def test_all_stores_together_stay_within_their_memory(memory: int, stores: int) -> None:
    options = StoreOptions(memory, stores)
    most = options.write_buffer_size * options.max_write_buffer_number * stores
    assert most <= max(memory // 2, stores * 2 << 20)
