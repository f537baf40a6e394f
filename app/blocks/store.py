"""How RocksDB is set up for the partitions of a table."""

from typing import Any


def store_options(cache_mib: int) -> dict[str, Any]:
    """Options of Faust's RocksDB driver.

    8 MiB of writes in memory and a block cache of `cache_mib` for each partition: Faust's defaults are 64 MiB
    and 2 GiB.
    """
    return {
        "driver": "rocksdict",
        "block_cache_size": cache_mib << 20,
        "write_buffer_size": 8 << 20,
        "max_write_buffer_number": 2,
    }
