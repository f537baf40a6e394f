"""aiokafka's connections on uvloop."""

from typing import Any

from aiokafka.conn import CloseReason


def drop_broken(client: Any) -> None:
    """Let a client open a connection anew whose transport is closed already.

    aiokafka takes a connection for a good one until its reader has read to the end. What is written to it meanwhile
    asyncio drops and uvloop refuses, with a RuntimeError that aiokafka does not know: its sender ended, and the
    worker with it, when Kafka was restarted (seen in an ordeal of a million records).

    Args:
        client: an aiokafka client.
    """
    get = client._get_conn

    async def get_tended(node: Any, **options: Any) -> Any:
        for conn_id, conn in list(client._conns.items()):
            writer = conn._writer
            if conn_id[0] == node and writer is not None and writer.is_closing():
                conn.close(reason=CloseReason.CONNECTION_BROKEN)
        return await get(node, **options)

    client._get_conn = get_tended
