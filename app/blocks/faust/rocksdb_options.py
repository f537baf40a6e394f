"""How RocksDB is set up for the partitions of tables: what all of them together take is bounded."""

import resource
from typing import Any

import rocksdict
from faust.stores.rocksdb import RocksDBOptions

#: Writes that a store keeps in memory before it makes a file of them. Few large files are cheaper to write than
#: many small ones; below the least a file is hardly worth its name.
_MOST_BUFFER, _LEAST_BUFFER = 16 << 20, 1 << 20
#: Memory for writes is taken in such pieces: RocksDB's own of an eighth of the buffer is 1 MiB for a store in
#: which a few rows stand.
_PIECE = 64 << 10
#: Bits for each key, of a filter that tells which files lack it: one in a hundred is asked in vain.
_FILTER_BITS = 10
#: Of the files that this process may have open, all stores together take at most this share; and one at least so many.
_FILES_SHARE, _LEAST_FILES = 0.6, 16
_MOST_FILES = 65_536
#: One buffer is filled while the other is written.
_BUFFERS = 2


class StoreOptions(RocksDBOptions):
    """Options of Faust's RocksDB store, shared by all stores of a worker.

    Faust's own have no filter (the kind that they ask for is gone from RocksDB), so that a key that is not there was
    looked for in every file, and a block cache of 2 GiB for each partition.

    Args:
        memory_bytes: block cache and buffered writes of all stores together, half of it each.
        stores: how many there are at most.
    """

    def __init__(self, memory_bytes: int, stores: int) -> None:
        buffer = memory_bytes // 2 // (_BUFFERS * stores)
        limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST_FILES)
        super().__init__(
            use_rocksdict=True,
            # Faust's own lets each store take nine tenths of the limit
            max_open_files=max(_LEAST_FILES, int(limit * _FILES_SHARE) // stores),
            write_buffer_size=min(max(buffer, _LEAST_BUFFER), _MOST_BUFFER),
            max_write_buffer_number=_BUFFERS,
        )
        self._cache = rocksdict.Cache(memory_bytes // 2)

    def as_options(self) -> Any:
        """The same with a filter and the shared cache."""
        options = super().as_options()
        options.set_arena_block_size(_PIECE)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(_FILTER_BITS, block_based=False)
        blocks.set_block_cache(self._cache)
        options.set_block_based_table_factory(blocks)
        return options
