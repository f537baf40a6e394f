"""Callers that wait for the prediction of one transaction (`POST /score`).

The answer comes from the log: the record that the sink reads from `predictions`, or the first stage's finding that the
transaction is a repetition. The worker that owns the card's partition computes both, so the caller waits there, and no
additional fetch is needed.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.blocks.core.partition import Computed
from app.errors import BusyError
from app.topics import Topics
from app.wire.input_records import SourceRecord

logger = logging.getLogger(__name__)

#: Partition and offset of a record on `transactions`.
Position = tuple[int, int]


@dataclass(slots=True)
class WaitingCaller:
    """One caller.

    Attributes:
        outcome: the prediction's fields; None if the transaction repeats an earlier one.
    """

    outcome: asyncio.Future[dict[str, Any] | None]
    _position: Position | None = None
    _found: dict[Position, dict[str, Any] | None] = field(default_factory=dict)

    def sent(self, position: Position) -> None:
        """Set the position of the caller's record; its outcome may be known already."""
        self._position = position
        if position in self._found:
            self._resolve(self._found[position])

    def found(self, position: Position, fields: dict[str, Any] | None) -> None:
        """Set the outcome of one of the card's records."""
        if self._position is None:
            self._found[position] = fields
        elif position == self._position:
            self._resolve(fields)

    def _resolve(self, fields: dict[str, Any] | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(fields)


class ScoreCallers:
    """The callers that wait, by card.

    Args:
        topics: of the deployment.
        most: largest number of callers that may wait at a time.

    Attributes:
        statuses: answers since start, by HTTP status.
    """

    def __init__(self, topics: Topics, most: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._topics = topics
        self._most = most
        self._waiting: dict[bytes, list[WaitingCaller]] = {}
        self._count = 0

    @contextmanager
    def expect(self, card: bytes) -> Iterator[WaitingCaller]:
        """Register a caller for a record of this card, before the record is sent.

        Raises:
            BusyError: too many wait already.
        """
        if self._count >= self._most:
            msg = f"{self._count} callers wait for a score at this worker (FRAUDSTREAM_SCORE_WAITING): try again"
            raise BusyError(msg)
        waiting = WaitingCaller(asyncio.get_running_loop().create_future())
        self._waiting.setdefault(card, []).append(waiting)
        self._count += 1
        try:
            yield waiting
        finally:
            self._count -= 1
            of_card = self._waiting[card]
            of_card.remove(waiting)
            if not of_card:
                del self._waiting[card]

    def predicted(
        self, partition: int, records: Sequence[SourceRecord], _computed: Computed
    ) -> None:
        """Answer callers from records of `predictions`, which are durable."""
        if not self._waiting:  # costs nothing if no caller waits
            return
        for record in records:
            for waiting in self._waiting.get(record.key or b"", ()):
                fields = orjson.loads(record.value)
                waiting.found((fields["source_partition"], fields["source_offset"]), fields)

    def repeated(
        self, partition: int, _records: Sequence[SourceRecord], computed: Computed
    ) -> None:
        """Answer callers from the first stage's outputs for `duplicates`."""
        if not self._waiting:
            return
        if computed.outputs is None:  # paused for alignment before its first record
            return
        for key, value, _ in computed.outputs.get((self._topics.duplicates.name, partition), ()):
            for waiting in self._waiting.get(key or b"", ()):
                waiting.found((partition, orjson.loads(value)["source_offset"]), None)


class ObservedHandler:
    """A handler that reports its work to a listener; it computes blocks one by one.

    Args:
        handler: does the work.
        listen: called with the partition, the records of a block and the result.
    """

    def __init__(
        self, handler: Any, listen: Callable[[int, Sequence[SourceRecord], Computed], None]
    ) -> None:
        self._handler = handler
        self._listen = listen

    def __getattr__(self, name: str) -> Any:
        if name == "compute_many":  # it would bypass the listener
            raise AttributeError(name)
        return getattr(self._handler, name)

    def compute(self, partition: int, records: Sequence[SourceRecord], *others: Any) -> Computed:
        """See `app.blocks.core.partition.Handler`."""
        computed: Computed = self._handler.compute(partition, records, *others)
        try:
            self._listen(partition, records, computed)
        except Exception:  # a caller gets no answer or a page no alert, but the stream continues
            logger.exception("a listener to a stage failed")
        return computed
