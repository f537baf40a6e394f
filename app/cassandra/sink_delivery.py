"""Hands packed rows to Cassandra for the sink: connects when first needed, as long as it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cassandra.cluster import Session

from app.cassandra.outage_log import Behind, WriteListener
from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_rows import PackedRows, tables_of
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import shared_session
from app.cassandra.table_ttl import TtlCheck
from app.errors import UnavailableError
from app.repeated_warnings import RepeatedWarning
from app.settings import Settings

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 2.0


class TableWriters:
    """A writer for each table, made when the first row for it comes; all share a session. Belongs to one event loop.

    Args:
        settings: where Cassandra is.
        status: is told how writing goes.
        behind: tells how many rows wait in all.

    Attributes:
        session: None before Cassandra has been reached.
        connected: whether it has been.
    """

    def __init__(
        self, settings: Settings, status: WriteListener, behind: Behind | None = None
    ) -> None:
        self.session: Any = None
        self._settings = settings
        self._status = status
        self._behind = behind
        self._writers: dict[str, RowWriter] = {}
        self._connecting = asyncio.Lock()
        self._attempt: asyncio.Task[Session] | None = None
        self.connected = False
        self._asking = 0
        self._reminder = RepeatedWarning()

    def takes(self, table: PackedTable) -> bool:
        """Whether rows of a table can be sent now: there is a writer, and Cassandra answers it."""
        writer = self._writers.get(table.name)
        return writer is not None and writer.unavailable_since is None

    async def submit(self, table: PackedTable, rows: Sequence[bytes]) -> "asyncio.Future[Any]":
        """Hand rows over, once Cassandra has been reached; the result resolves once it has them all."""
        await self.reach(table)
        return self.submit_now(table, rows)

    def submit_now(self, table: PackedTable, rows: Sequence[bytes]) -> "asyncio.Future[Any]":
        """The same at once, after `reach`."""
        writer = self._writers.get(table.name)
        if writer is None:
            writer = self._writers[table.name] = RowWriter(
                self.session, self._settings, table, status=self._status, behind=self._behind
            )
        return writer.submit(rows)

    def deliver(
        self, table: PackedTable
    ) -> Callable[[int, Sequence[bytes]], Awaitable[Awaitable[Any]]]:
        """The `deliver` of a pipeline whose outputs are rows of one table."""

        async def deliver(_partition: int, rows: Sequence[bytes]) -> Awaitable[Any]:
            return await self.submit(table, rows)

        return deliver

    async def reach(self, table: PackedTable) -> None:
        """Connect to Cassandra if that is still to be done, however long it takes."""
        if self.connected:
            return
        self._asking += 1
        try:
            async with self._connecting:
                while not self.connected:
                    await self._connect(table)
        finally:
            self._asking -= 1
            if not self._asking and not self.connected:
                self._status.idle()  # a rebalance took the partitions that waited

    async def _connect(self, table: PackedTable) -> None:
        # a thread cannot be cancelled: whoever asks next takes over the attempt of one that was
        if self._attempt is None:
            self._attempt = asyncio.create_task(asyncio.to_thread(shared_session, self._settings))
        attempt = self._attempt
        try:
            self.session = await asyncio.shield(attempt)
        except UnavailableError as error:
            self._attempt = None
            self._status.waiting(str(error))
            if self._reminder.due():
                logger.warning("%s wait: %s", table.name, error)
            await asyncio.sleep(_RECONNECT_SECONDS)
        else:
            self.connected = True


class Delivery:
    """The `deliver` of the sink's pipeline.

    Args:
        settings: where Cassandra is.
        status: is told how writing goes.
        behind: tells how many predictions wait in all.
        clock_ms: the time, for latencies.
        since_append: is given the milliseconds from each source record's append to its acknowledged row.
        since_event: is given those from each transaction's event time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        status: WriteListener,
        behind: Behind | None = None,
        clock_ms: Callable[[], float],
        since_append: Callable[[Sequence[float]], None],
        since_event: Callable[[Sequence[float]], None],
    ) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._since_append = since_append
        self._since_event = since_event
        self._writers = TableWriters(settings, status, behind)
        self._kept_for: TtlCheck | None = None
        self._tables = tables_of(settings)

    @property
    def ready(self) -> bool:
        """Whether predictions can be stored now."""
        return self._writers.takes(self._tables.predictions)

    async def deliver(self, partition: int, rows: PackedRows) -> Awaitable[Any]:
        """Submit the rows of one block; the result resolves once Cassandra has them all."""
        await self._writers.reach(self._tables.predictions)
        return self._submit(rows)

    def deliver_now(self, partition: int, rows: PackedRows) -> "asyncio.Future[Any] | None":
        """The same at once; None where Cassandra has not been reached yet."""
        return self._submit(rows) if self._writers.connected else None

    def _submit(self, rows: PackedRows) -> "asyncio.Future[Any]":
        durable = self._writers.submit_now(self._tables.predictions, rows.rows)
        if rows.conflicting:  # rare: its writer's connections are made when the first one comes
            others = self._writers.submit_now(self._tables.conflicts, rows.conflicting)
            durable = asyncio.gather(durable, others)
        if self._kept_for is None and self._writers.session is not None:
            self._kept_for = TtlCheck(
                self._writers.session, self._settings, self._tables.predictions.name
            )
        if self._kept_for is not None:
            self._kept_for.look()
        received, event_times = rows.received_at, rows.event_time_ms

        def observe(future: "asyncio.Future[Any]") -> None:
            if not future.cancelled() and future.exception() is None:
                now = self._clock_ms()
                self._since_append([now - at for at in received])
                self._since_event([now - at for at in event_times])

        durable.add_done_callback(observe)
        return durable
