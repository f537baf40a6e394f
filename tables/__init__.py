"""The tables: one writing agent and one input topic each.

| table     | written by     | key      | rows                                                |
|-----------|----------------|----------|-----------------------------------------------------|
| cards     | agents/cards   | card     | head and segments (app/windows/window_row.py), `position` |
| terminals | agents/scoring | terminal | the same, and `pins` (app/stages/reserved_rows.py) |
| labels    | agents/labels  | offset   | parked labels (app/stages/parked_labels.py), `position`  |
"""

from functools import cache

from app.blocks.faust.block_table import BlockTable
from app.blocks.faust.rocksdb_options import StoreOptions
from app.faust_app import FraudApp, batch_bytes


@cache
def _stores(app: FraudApp) -> StoreOptions:
    """One store configuration for all tables: all partitions share its cache."""
    return StoreOptions(app.settings.state_memory_mb // 3 * 2 << 20, 3 * app.settings.partitions)


def block_table(app: FraudApp, name: str, changelog: str) -> BlockTable:
    """A table of this project, registered with the app."""
    table = BlockTable(
        app,
        name=name,
        changelog=changelog,
        partitions=app.settings.partitions,
        batch_bytes=batch_bytes(app.settings),
        store=_stores(app),
        options={"driver": "rocksdict"},
    )
    registered: BlockTable = app.tables.add(table)
    return registered
