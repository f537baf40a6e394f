"""Packed rows to one table of Cassandra: unlogged batches, several at once, done when every row is acknowledged.

Batches are formed per replica set when they are sent. So rows of all partitions that are submitted in one turn of
the event loop travel together, and so do those that had to wait; nothing waits for company.
It tries again for as long as it takes; a row that Cassandra will never take is an error that names it.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cassandra.cluster import Session

from app.cassandra import cql_wire as wire
from app.cassandra.cql_connection import CqlLink
from app.cassandra.cql_nodes import NodeLinks
from app.cassandra.outage_log import Behind, Outage, WriteListener
from app.cassandra.packed_rows import PackedTable
from app.cassandra.row_batches import Part, PendingWrite, RowBatch, WaitingRows, wanted
from app.cassandra.silent_nodes import SilenceWatch
from app.cassandra.write_retries import WriteReaction, delay_seconds, reaction, refusal
from app.settings import Settings


class RowWriter:
    """Writes packed rows; belongs to one event loop, serves all partitions.

    Args:
        session: knows the cluster; the writer's own connections are made at its first use.
        settings: batch size, batches in flight, consistency, how long rows live, how to connect.
        table: where they go.
        status: is told of progress and failures.
        behind: tells how many rows wait in all, those that were not submitted yet included.
        seed: makes the jitter of retries repeatable.

    Attributes:
        rows_written, batches_written: acknowledged since start.
        retries: attempts that failed and were repeated, batches.
        in_flight: batches on their way.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        table: PackedTable,
        *,
        status: WriteListener | None = None,
        behind: Behind | None = None,
        seed: int | None = None,
    ) -> None:
        self.rows_written = 0
        self.batches_written = 0
        self.retries = 0
        self.in_flight = 0
        self._session = session
        self._settings = settings
        self._table = table
        self._outage = Outage(status, table.name, behind)
        self._rng = random.Random(seed)  # noqa: S311
        self._batch_bytes = settings.sink_batch_bytes
        self._nodes: NodeLinks | None = None
        self._again: deque[RowBatch] = deque()
        self._waiting = WaitingRows()
        self._pumping: asyncio.Handle | None = None
        self._delayed: dict[RowBatch, asyncio.TimerHandle] = {}
        self._last_us = 0
        self._silence = SilenceWatch(
            self._links, lambda: self._nodes is not None and self.in_flight > 0
        )

    @property
    def rows_waiting(self) -> int:
        """Rows submitted and not acknowledged."""
        return self._outage.rows_waiting

    @property
    def last_error(self) -> str | None:
        """What the last failed attempt said, None if none failed."""
        return self._outage.last_error

    @property
    def unavailable_since(self) -> float | None:
        """Epoch second from which on nothing is taken, None while rows are."""
        return self._outage.since

    async def write(self, rows: Sequence[bytes]) -> None:
        """Write rows; returns when all are acknowledged. Cancelling gives up what is not sent yet.

        Raises:
            StateError: Cassandra will never take a row; the text names its source position.
            SchemaError: the table is missing or has other columns.
            UnavailableError: the user may not write.
        """
        await self.submit(rows)

    def submit(self, rows: Sequence[bytes]) -> "asyncio.Future[None]":
        """As `write`, without waiting: the future resolves when all rows are acknowledged."""
        loop = asyncio.get_running_loop()
        write = PendingWrite(loop.create_future(), len(rows))
        nodes = self._tended_nodes()
        if not rows:
            write.future.set_result(None)
            return write.future
        for group, members in nodes.map.split(list(rows)):
            self._waiting.append(group, (write, members))
        self._outage.rows_waiting += len(rows)
        write.future.add_done_callback(self._forget_cancelled)
        if self._pumping is None:  # what others submit in this turn goes along
            self._pumping = loop.call_soon(self._pump)
        return write.future

    async def close(self) -> None:
        """Drop the connections; writes that are not acknowledged are cancelled."""
        nodes, self._nodes = self._nodes, None
        for batch in [*self._again, *self._delayed]:
            _cancel(batch.parts)
        _cancel(self._waiting)
        self._outage.close()
        self._silence.close()
        for timer in (self._pumping, *self._delayed.values()):
            if timer is not None:
                timer.cancel()
        self._again.clear()
        self._waiting.clear()
        self._delayed.clear()
        if nodes is not None:
            for link in nodes.links.values():
                for batch, _ in link.pending.values():
                    _cancel(batch.parts)
            await nodes.close()

    # ---------------------------------------------------------------- sending

    def _tended_nodes(self) -> NodeLinks:
        if self._nodes is None:
            self._nodes = NodeLinks(
                self._session,
                self._settings,
                self._table,
                on_answer=self._answered,
                on_up=self._pump,
                on_lost=self._lost,
                on_refused=self._refused,
                rng=self._rng,
            )
        self._nodes.tend()
        return self._nodes

    def _pump(self) -> None:
        self._pumping = None
        limit = self._settings.sink_in_flight
        while self.in_flight < limit and self._send_one():
            pass
        if self.in_flight:
            self._silence.begin()

    def _send_one(self) -> bool:
        """Send the next batch; False where there is none, or nobody takes it now."""
        nodes, again = self._nodes, self._again
        if nodes is None or not (again or self._waiting):
            return False
        group = again[0].group if again else self._waiting.group
        link = nodes.pick(group)
        if link is None:
            return False
        batch = again.popleft() if again else self._waiting.take(group, self._batch_bytes)
        if batch.forget_done():
            if batch.head != link.head:
                self._encode(batch, link.head, nodes.consistency)
            self.in_flight += 1
            link.send(batch.body, batch)
        return True

    def _encode(self, batch: RowBatch, head: bytes, consistency: int) -> None:
        if not batch.timestamp_us:  # a repeated batch keeps its time, and so changes nothing
            batch.timestamp_us = self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        batch.head = head
        batch.body = wire.batch(head, batch.rows, consistency, batch.timestamp_us)

    # ---------------------------------------------------------------- answers

    def _answered(self, batch: RowBatch, failure: wire.ServerError | None) -> None:
        self.in_flight -= 1
        if failure is None:
            self._acknowledged(batch)
        elif batch.forget_done():
            self._failed(batch, failure)
        self._pump()

    def _acknowledged(self, batch: RowBatch) -> None:
        count = 0
        for write, rows in batch.parts:
            count += len(rows)
            if not write.future.done():
                self._outage.rows_waiting -= len(rows)
            write.acknowledged(len(rows))
        self.rows_written += count
        self.batches_written += 1
        self._outage.succeeded(count)

    def _failed(self, batch: RowBatch, failure: wire.ServerError) -> None:
        what = reaction(failure, batch.attempts, len(batch.rows))
        if what in (WriteReaction.PREPARE, WriteReaction.PREPARE_AND_RETRY):
            assert self._nodes is not None
            self._nodes.prepare_again()
        if what is WriteReaction.PREPARE:
            batch.attempts += 1
            self._again.appendleft(batch)
        elif what in (WriteReaction.RETRY, WriteReaction.PREPARE_AND_RETRY):
            self._retry(batch, failure.message)
        elif what in (WriteReaction.SMALLER, WriteReaction.HALVES):
            if what is WriteReaction.SMALLER:
                self._batch_bytes = self._batch_bytes * 3 // 4
            self._again.extendleft(reversed(list(batch.halves())))
        else:
            error = refusal(failure, self._table, batch.rows[0])
            for write, _ in batch.parts:
                write.give_up(error)

    def _retry(self, batch: RowBatch, reason: str) -> None:
        self._outage.failed(reason, batch.attempts)
        delay = delay_seconds(batch.attempts, self._rng)
        batch.attempts += 1
        self.retries += 1
        loop = asyncio.get_running_loop()
        self._delayed[batch] = loop.call_later(delay, self._resume, batch)

    def _resume(self, batch: RowBatch) -> None:
        del self._delayed[batch]
        self._again.append(batch)
        self._pump()

    def _lost(self, reason: str, unanswered: list[Any]) -> None:
        """A node is gone. What it had not answered goes out again, to another node or once it is back."""
        if self._nodes is None:
            return
        self.in_flight -= len(unanswered)
        again = [batch for batch in unanswered if batch.forget_done()]
        self.retries += len(again)
        self._again.extendleft(reversed(again))
        if self._outage.rows_waiting and self._nodes.pick(0) is None:
            self._outage.failed(reason)
        self._pump()

    def _refused(self, failure: wire.ServerError) -> None:
        """The statement cannot be prepared: nothing can be written, ever."""
        error = refusal(failure, self._table, None)
        parts = list(self._waiting)
        parts += [part for batch in [*self._again, *self._delayed] for part in batch.parts]
        for write in {write for write, _ in parts}:
            write.give_up(error)

    def _forget_cancelled(self, future: "asyncio.Future[None]") -> None:
        """What belongs to a write that is over for another reason than success is not sent any more."""
        if not future.cancelled() and future.exception() is None:
            return
        for batch in [batch for batch in self._delayed if not batch.forget_done()]:
            self._delayed.pop(batch).cancel()
        self._again = deque(batch for batch in self._again if batch.forget_done())
        self._waiting.forget_done()
        self._outage.rows_waiting = sum(len(rows) for _, rows in wanted(self._unfinished()))
        if not self._outage.rows_waiting:
            self._outage.idle()

    def _unfinished(self) -> Iterator[Part]:
        yield from self._waiting
        batches = [*self._again, *self._delayed]
        for link in self._links():
            batches += [batch for batch, _ in link.pending.values()]
        for batch in batches:
            yield from batch.parts

    def _links(self) -> list[CqlLink]:
        return [] if self._nodes is None else list(self._nodes.links.values())


def _cancel(parts: Iterable[Part]) -> None:
    for write, _ in parts:
        write.future.cancel()
