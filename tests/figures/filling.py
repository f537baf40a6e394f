"""Many stored predictions, for what is measured over them."""

from collections.abc import Callable, Sequence

from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_rows import RowPacker, tables_of
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import connected
from app.settings import Settings

#: Of some numbers: the predictions as they are on the wire, and packed rows of a second table.
Made = Callable[[range], tuple[Sequence[bytes], Sequence[bytes]]]
_CHUNK = 5_000


async def fill(settings: Settings, count: int, beside: PackedTable, made: Made) -> None:
    """Write predictions, and rows of another table beside them.

    Args:
        settings: the deployment; its tables are there.
        count: number of predictions.
        beside: the other table.
        made: gives the rows of some numbers below `count`.
    """
    packer = RowPacker.of(settings)
    with connected(settings) as session:
        tables = tables_of(settings)[0], beside
        writers = [RowWriter(session, settings, table) for table in tables]
        try:
            for begin in range(0, count, _CHUNK):
                values, others = made(range(begin, min(count, begin + _CHUNK)))
                await writers[0].write(packer.pack_many(list(values)).rows)
                await writers[1].write(list(others))
        finally:
            for writer in writers:
                await writer.close()
