"""Which broker a request goes to, if it may go to any of them."""

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NodeNotReadyError

#: Until a broker that stopped is no longer advertised (9 s by default), and another one is the controller.
_CONTROLLER_SECONDS, _AGAIN_SECONDS = 30.0, 0.2


async def ready_broker(client: AIOKafkaClient) -> int:
    """The id of a broker that accepts our connection.

    aiokafka draws one of those that are advertised, and gives up if it cannot connect: for some seconds after one of
    three brokers had stopped, two of three starts of a worker failed.

    Raises:
        NodeNotReadyError: none of them does.
    """
    numbers = [broker.nodeId for broker in client.cluster.brokers()]
    for number in numbers:
        if await client.ready(number):
            return int(number)
    msg = f"none of the brokers {numbers} accepts a connection"
    raise NodeNotReadyError(msg)


class AdminClient(AIOKafkaAdminClient):
    """aiokafka's, which goes on to another broker where one does not accept its connection."""

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        return await super()._send_request(
            request, await ready_broker(self._client) if node_id is None else node_id
        )

    async def _send_to_controller(self, request: Any) -> Any:
        """Without asking for the controller again, aiokafka would wait for one that stopped."""
        try:
            async with asyncio.timeout(_CONTROLLER_SECONDS):
                while not await self._controller_is_ready():
                    await asyncio.sleep(_AGAIN_SECONDS)
                    await self._client.force_metadata_update()
        except TimeoutError as error:
            msg = f"the controller does not answer within {_CONTROLLER_SECONDS:g} s"
            raise NodeNotReadyError(msg) from error
        return await super()._send_to_controller(request)

    async def _controller_is_ready(self) -> bool:
        controller = self._client.cluster.controller
        return controller is not None and await self._client.ready(controller.nodeId)
