"""The tables: one writing agent and one input topic each.

| table     | written by     | key      | rows                                                |
|-----------|----------------|----------|-----------------------------------------------------|
| cards     | agents/cards   | card     | head and segments (app/domain/window_row.py), `position` |
| terminals | agents/scoring | terminal | the same, and `pins` (app/handlers/rows.py)         |
"""

from app.blocks.store import store_options
from app.blocks.table import BlockTable
from app.faust_app import FraudApp, batch_bytes


def block_table(app: FraudApp, name: str, changelog: str) -> BlockTable:
    """A table of this project, registered with the app."""
    table = BlockTable(
        app,
        name=name,
        changelog=changelog,
        partitions=app.settings.partitions,
        batch_bytes=batch_bytes(app.settings),
        options=store_options(app.settings.store_cache_mb),
    )
    registered: BlockTable = app.tables.add(table)
    return registered
