"""Labels and Cassandra: the transaction that a label speaks of is found, and the label is stored.

They are stored as predictions are (docs/adr/0008): by the driver's session, in threads, a transaction with its label
took a fifth more of the worker and three tenths more of Cassandra.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from cassandra.cluster import Session

from app.cassandra.label_queries import find_places
from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import shared_session
from app.errors import NotAnsweringError
from app.settings import Settings
from app.wire.label_records import LabelRecord

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A look-up that takes longer counts as no answer: a block of labels waits for it.
FIND_SECONDS = 2.0
#: While Cassandra is unavailable, labels are forwarded until this number of blocks waits to be stored.
MOST_BLOCKS_WAITING = 64
#: Between attempts to reach Cassandra.
_AWAY_SECONDS = 2.0
#: Look-ups whose threads may hang before no further one is made.
_MOST_ASKING = 4
_NO_ANSWER = f"Cassandra did not answer a look-up within {FIND_SECONDS:g} s"


class LabelStore:
    """Finds the transactions of labels, and stores labels; belongs to one event loop.

    Args:
        settings: where Cassandra is.
        topic: where labels come from.

    Attributes:
        away: why Cassandra could not be asked the last time; None when it answered.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self.away: str | None = None
        self._settings = settings
        self._topic = topic
        self._session: Session | None = None
        self._writer: RowWriter | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Future[Any]] = set()
        self._ask_again_at = 0.0

    async def find(
        self, transaction_ids: Sequence[str], seconds: float = FIND_SECONDS
    ) -> list[list[dict[str, Any]]]:
        """For each id, the transactions that have it: card, event time (epoch ms), terminal.

        Raises:
            NotAnsweringError: Cassandra does not answer in time, or did not a moment ago.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_again_at:
            raise NotAnsweringError(self.away or "Cassandra does not answer")
        deadline = loop.time() + seconds
        try:
            await self._within(self._connected(), deadline)
            if len(self._asking) >= _MOST_ASKING:  # threads that hang: no further ones
                raise NotAnsweringError(_NO_ANSWER)
            asking = asyncio.ensure_future(
                asyncio.to_thread(find_places, self._session, self._settings, transaction_ids)
            )
            self._asking.add(asking)
            asking.add_done_callback(self._asked)
            found: list[list[dict[str, Any]]] = await self._within(asking, deadline)
        except NotAnsweringError as error:
            if self.away is None:
                logger.warning("labels are not looked up, they wait: %s", error)
            self.away = str(error)
            self._ask_again_at = loop.time() + _AWAY_SECONDS
            raise
        if self.away is not None:
            logger.warning("labels are looked up again")
            self.away = None
        return found

    def _asked(self, asking: asyncio.Future[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # nobody may wait for it any more

    async def _within(self, work: asyncio.Future[T], deadline: float) -> T:
        """What a task leads to; one that takes longer goes on, since its thread cannot be stopped."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({work}, timeout=left)
        if not done:
            raise NotAnsweringError(_NO_ANSWER)
        return work.result()

    async def store(self, partition: int, labels: Sequence[LabelRecord]) -> None:
        """Write the labels of one partition; done once Cassandra has them all, however long that takes."""
        if not labels:
            return
        said = False
        while True:
            try:
                await asyncio.shield(self._connected())
                break
            except NotAnsweringError as error:
                if not said:
                    logger.warning("labels wait: %s", error)
                    said = True
                await asyncio.sleep(_AWAY_SECONDS)
        assert self._writer is not None
        await self._writer.write(list(pack_labels(self._topic, partition, labels)))

    def _connected(self) -> asyncio.Task[None]:
        """The one attempt to connect, successful or under way; a new one after a failure."""
        task = self._connecting
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._connecting = asyncio.create_task(self._connect())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _connect(self) -> None:
        self._session = await asyncio.to_thread(shared_session, self._settings)
        self._writer = RowWriter(self._session, self._settings, LABELS)
