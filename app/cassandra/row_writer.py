"""Packed rows to one table of Cassandra: unlogged batches, several at once, done when every row is acknowledged.

It tries again for as long as it takes; a row that Cassandra will never take is an error that names it.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from cassandra.cluster import Session

from app.cassandra import cql_wire as wire
from app.cassandra.cql_nodes import REFUSED_FOR_EVER, UNAUTHORIZED, Nodes
from app.cassandra.outage import Behind, Outage, Status
from app.cassandra.packed import PackedTable
from app.errors import FraudstreamError, SchemaError, StateError, UnavailableError
from app.settings import Settings

#: Between attempts to write a batch that a node would not take now, seconds: the first, and the most.
_BACKOFF_SECONDS = (0.05, 5.0)
#: A node that is silent for so long with batches on their way is given up; the server itself gives up after 2.
_SILENCE_SECONDS = 10.0
_WATCH_SECONDS = 1.0
_UNPREPARED = 0x2500
#: The server counts a row so much larger than it is on the wire, at most: a timestamp and more for each cell.
ROW_OVERHEAD_BYTES = 340
_TOO_LARGE = "Batch too large"


class _Write:
    """What one `submit` waits for."""

    __slots__ = ("future", "left")

    def __init__(self, future: "asyncio.Future[None]") -> None:
        self.future = future
        self.left = 0


class _Batch:
    """Rows that travel together."""

    __slots__ = ("attempts", "body", "group", "head", "rows", "timestamp_us", "write")

    def __init__(self, rows: list[bytes], group: int, write: _Write) -> None:
        self.rows = rows
        self.group = group
        self.write = write
        self.attempts = 0
        self.timestamp_us = 0
        self.head = b""
        self.body = b""


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
        status: Status | None = None,
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
        self._nodes: Nodes | None = None
        self._queue: deque[_Batch] = deque()
        self._delayed: dict[_Batch, asyncio.TimerHandle] = {}
        self._last_us = 0
        self._watch: asyncio.TimerHandle | None = None

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
        write = _Write(loop.create_future())
        nodes = self._tended_nodes()
        batches = [
            _Batch(chunk, group, write)
            for group, members in nodes.map.split(list(rows))
            for chunk in self._chunks(members)
        ]
        write.left = len(batches)
        if not batches:
            write.future.set_result(None)
            return write.future
        self._outage.rows_waiting += len(rows)
        self._queue.extend(batches)
        write.future.add_done_callback(self._forget_cancelled)
        self._pump()
        return write.future

    async def close(self) -> None:
        """Drop the connections; writes that are not acknowledged are cancelled."""
        for batch in [*self._queue, *self._delayed]:
            batch.write.future.cancel()
        self._outage.close()
        for timer in (self._watch, *self._delayed.values()):
            if timer is not None:
                timer.cancel()
        self._queue.clear()
        self._delayed.clear()
        nodes, self._nodes = self._nodes, None
        if nodes is not None:
            for link in nodes.links.values():
                for batch, _ in link.pending.values():
                    batch.write.future.cancel()
            await nodes.close()

    # ---------------------------------------------------------------- sending

    def _tended_nodes(self) -> Nodes:
        if self._nodes is None:
            self._nodes = Nodes(
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

    def _chunks(self, rows: list[bytes]) -> Iterator[list[bytes]]:
        """Rows in batches of at most the set size, by the server's count of bytes."""
        chunk: list[bytes] = []
        room = limit = self._batch_bytes
        for row in rows:
            size = len(row) + ROW_OVERHEAD_BYTES
            if size > room and chunk:
                yield chunk
                chunk, room = [], limit
            chunk.append(row)
            room -= size
        if chunk:
            yield chunk

    def _pump(self) -> None:
        queue, nodes = self._queue, self._nodes
        limit = self._settings.sink_in_flight
        while queue and nodes is not None and self.in_flight < limit:
            batch = queue[0]
            if not batch.write.future.done():
                link = nodes.pick(batch.group)
                if link is None:
                    return
                if batch.head != link.head:
                    self._encode(batch, link.head, nodes.consistency)
                self.in_flight += 1
                link.send(batch.body, batch)
            queue.popleft()
        if self.in_flight and self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look)

    def _encode(self, batch: _Batch, head: bytes, consistency: int) -> None:
        if not batch.timestamp_us:  # a repeated batch keeps its time, and so changes nothing
            batch.timestamp_us = self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        batch.head = head
        batch.body = wire.batch(head, batch.rows, consistency, batch.timestamp_us)

    # ---------------------------------------------------------------- answers

    def _answered(self, batch: _Batch, failure: wire.Failure | None) -> None:
        self.in_flight -= 1
        if failure is None:
            self._acknowledged(batch)
        elif not batch.write.future.done():
            self._failed(batch, failure)
        self._pump()

    def _acknowledged(self, batch: _Batch) -> None:
        count = len(batch.rows)
        self.rows_written += count
        self.batches_written += 1
        write = batch.write
        write.left -= 1
        if not write.future.done():
            self._outage.rows_waiting -= count
            if write.left == 0:
                write.future.set_result(None)
        self._outage.succeeded(count)

    def _failed(self, batch: _Batch, failure: wire.Failure) -> None:
        if failure.code == _UNPREPARED:
            assert self._nodes is not None
            self._nodes.prepare_again()
        if failure.code == _UNPREPARED and batch.attempts == 0:
            batch.attempts += 1
            self._queue.appendleft(batch)
        elif failure.code not in REFUSED_FOR_EVER:
            self._retry(batch, failure.message)
        elif failure.code != UNAUTHORIZED and len(batch.rows) > 1:
            # too large for this server, or one row is to blame: halves show which
            if _TOO_LARGE in failure.message:
                self._batch_bytes = min(self._batch_bytes, self._batch_bytes * 3 // 4)
            self._split(batch)
        else:
            self._give_up(batch.write, self._refusal(failure, batch.rows[0]))

    def _split(self, batch: _Batch) -> None:
        middle = len(batch.rows) // 2
        batch.write.left += 1
        for rows in (batch.rows[middle:], batch.rows[:middle]):
            self._queue.appendleft(_Batch(rows, batch.group, batch.write))

    def _retry(self, batch: _Batch, reason: str) -> None:
        self._outage.failed(reason, batch.attempts)
        first, most = _BACKOFF_SECONDS
        delay = min(most, first * 2 ** min(batch.attempts, 20)) * self._rng.uniform(0.5, 1.0)
        batch.attempts += 1
        self.retries += 1
        loop = asyncio.get_running_loop()
        self._delayed[batch] = loop.call_later(delay, self._resume, batch)

    def _resume(self, batch: _Batch) -> None:
        del self._delayed[batch]
        self._queue.append(batch)
        self._pump()

    def _lost(self, reason: str, unanswered: list[Any]) -> None:
        """A node is gone. What it had not answered goes out again, to another node or once it is back."""
        if self._nodes is None:
            return
        self.in_flight -= len(unanswered)
        again = [batch for batch in unanswered if not batch.write.future.done()]
        self.retries += len(again)
        self._queue.extendleft(reversed(again))
        if self._outage.rows_waiting and self._nodes.pick(0) is None:
            self._outage.failed(reason)
        self._pump()

    def _refused(self, failure: wire.Failure) -> None:
        """The statement cannot be prepared: nothing can be written, ever."""
        error = self._refusal(failure, None)
        for write in {batch.write for batch in [*self._queue, *self._delayed]}:
            self._give_up(write, error)

    def _give_up(self, write: _Write, error: FraudstreamError) -> None:
        if not write.future.done():
            write.future.set_exception(error)

    def _forget_cancelled(self, future: "asyncio.Future[None]") -> None:
        """What belongs to a write that is over for another reason than success is not sent any more."""
        if not future.cancelled() and future.exception() is None:
            return
        for batch in [batch for batch in self._delayed if batch.write.future is future]:
            self._delayed.pop(batch).cancel()
        self._queue = deque(b for b in self._queue if b.write.future is not future)
        self._outage.rows_waiting = sum(len(b.rows) for b in self._unfinished())
        if not self._outage.rows_waiting:
            self._outage.idle()

    def _unfinished(self) -> Iterator[_Batch]:
        yield from self._queue
        yield from self._delayed
        if self._nodes is not None:
            for link in self._nodes.links.values():
                yield from (b for b, _ in link.pending.values() if not b.write.future.done())

    # ---------------------------------------------------------------- outages

    def _look(self) -> None:
        """Give up nodes that have been silent too long; runs while batches are on their way."""
        self._watch = None
        if self._nodes is None:
            return
        oldest_allowed = time.monotonic() - _SILENCE_SECONDS
        for link in list(self._nodes.links.values()):
            if link.pending and next(iter(link.pending.values()))[1] < oldest_allowed:
                link.abort(f"no answer for {_SILENCE_SECONDS:g} s")
        if self.in_flight:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look)

    def _refusal(self, failure: wire.Failure, row: bytes | None) -> FraudstreamError:
        if failure.code == UNAUTHORIZED:
            return UnavailableError(
                f"Cassandra forbids writing: {failure.message}; grant MODIFY to "
                "FRAUDSTREAM_CASSANDRA_USERNAME"
            )
        if row is None:
            return SchemaError(f"{failure.message}: run `fraudstream migrate`")
        table = self._table
        return StateError(
            f"Cassandra refuses the {table.holds} of {table.place(row)}: {failure.message}"
        )
