"""The tables: one writing agent and one input topic each.

| table     | written by     | key      | rows                                                |
|-----------|----------------|----------|-----------------------------------------------------|
| cards     | agents/cards   | card     | head and segments (app/domain/window_row.py), `position` |
| terminals | agents/scoring | terminal | the same, and `pins` (app/handlers/rows.py)         |
"""

from app.blocks.table import BlockTable
from app.faust_app import FraudApp, batch_bytes


def block_table(app: FraudApp, name: str, changelog: str) -> BlockTable:
    """A table of this project, registered with the app.

    RocksDB keeps 8 MiB of writes in memory and the settings' block cache for each partition: Faust's
    defaults are 64 MiB and 2 GiB.
    """
    table = BlockTable(
        app,
        name=name,
        changelog=changelog,
        partitions=app.settings.partitions,
        batch_bytes=batch_bytes(app.settings),
        options={
            "driver": "rocksdict",
            "block_cache_size": app.settings.store_cache_mb << 20,
            "write_buffer_size": 8 << 20,
            "max_write_buffer_number": 2,
        },
    )
    registered: BlockTable = app.tables.add(table)
    return registered
