"""A store that is ahead of its changelog, or another's, is deleted; one that is not stays."""

from types import SimpleNamespace

import rocksdict

from app.blocks.faust.block_table import BlockTable


class Stores:
    """Real RocksDB stores, as Faust's store class offers them."""

    offset_key = b"__faust\0offset__"

    def __init__(self, folder):
        self.folder = folder
        self._dbs = {}

    def partition_path(self, partition):
        return self.folder / f"cards-{partition}.db"

    def persisted_offset(self, tp):
        options = rocksdict.Options(raw_mode=True)
        db = self._dbs.setdefault(
            tp.partition, rocksdict.Rdict(str(self.partition_path(tp.partition)), options)
        )
        raw = db.get(self.offset_key)
        return None if raw is None else int(raw)

    def write(self, partition, offset):
        options = rocksdict.Options(raw_mode=True)
        db = rocksdict.Rdict(str(self.partition_path(partition)), options)
        if offset is not None:
            db.put(self.offset_key, str(offset).encode())
        db.close()


def test_only_stores_ahead_of_their_changelog_are_deleted(tmp_path):
    #   changelog 0..9   persisted:  9 = its last record    10 = beyond it    nothing yet
    stores = Stores(tmp_path)
    stores.write(0, 9)
    stores.write(1, 10)
    stores.write(2, None)
    table = SimpleNamespace(data=stores, _changelog_name="changelog")

    deleted = BlockTable.discard_stale(table, {0: 10, 1: 10, 2: 10, 3: 10}, foreign=False)

    assert deleted == [1]
    assert stores.partition_path(0).is_dir()
    assert not stores.partition_path(1).exists()
    assert stores.partition_path(2).is_dir()
    assert not stores.partition_path(3).exists()  # never opened: a look must not make a store


def test_stores_of_another_changelog_are_deleted_wherever_they_end(tmp_path):
    stores = Stores(tmp_path)
    stores.write(0, 3)
    stores.write(1, 30)
    table = SimpleNamespace(data=stores, _changelog_name="changelog")

    deleted = BlockTable.discard_stale(table, {0: 10, 1: 10, 2: 10}, foreign=True)

    assert deleted == [0, 1]
    assert not any(tmp_path.iterdir())
