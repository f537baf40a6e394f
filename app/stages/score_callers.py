"""Callers that wait for the prediction of one transaction (`POST /score`).

What answers is what is on the log: the record that the sink reads from `predictions`, or the first stage's finding
that a transaction was repeated. Both are computed by the worker that has the card's partition, so the caller waits
there, and nothing has to be fetched once more.
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
        outcome: the prediction's fields; None where the transaction is a repetition of an earlier one.
    """

    outcome: asyncio.Future[dict[str, Any] | None]
    _position: Position | None = None
    _found: dict[Position, dict[str, Any] | None] = field(default_factory=dict)

    def sent(self, position: Position) -> None:
        """Where the caller's record is; what became of it may be known already."""
        self._position = position
        if position in self._found:
            self._resolve(self._found[position])

    def found(self, position: Position, fields: dict[str, Any] | None) -> None:
        """What became of one of the card's records."""
        if self._position is None:
            self._found[position] = fields
        elif position == self._position:
            self._resolve(fields)

    def _resolve(self, fields: dict[str, Any] | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(fields)


class ScoreCallers:
    """Who waits, by card.

    Args:
        topics: of the deployment.
        most: callers that may wait at a time.

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
        """Wait for a record of this card, which is sent afterwards.

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
        """Records of `predictions`: each is durable."""
        if not self._waiting:  # costs nothing where nobody asks
            return
        for record in records:
            for waiting in self._waiting.get(record.key or b"", ()):
                fields = orjson.loads(record.value)
                waiting.found((fields["source_partition"], fields["source_offset"]), fields)

    def repeated(
        self, partition: int, _records: Sequence[SourceRecord], computed: Computed
    ) -> None:
        """Outputs of the first stage, of which some are for `duplicates`."""
        if not self._waiting:
            return
        if computed.outputs is None:  # paused for alignment before its first record
            return
        for key, value, _ in computed.outputs.get((self._topics.duplicates.name, partition), ()):
            for waiting in self._waiting.get(key or b"", ()):
                waiting.found((partition, orjson.loads(value)["source_offset"]), None)


class ObservedHandler:
    """A handler whose work somebody listens to.

    Args:
        handler: computes.
        listen: is given the partition, the records of a block and what was computed.
    """

    def __init__(
        self, handler: Any, listen: Callable[[int, Sequence[SourceRecord], Computed], None]
    ) -> None:
        self._handler = handler
        self._listen = listen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def compute(self, partition: int, records: Sequence[SourceRecord], *others: Any) -> Computed:
        """See `app.blocks.core.partition.Handler`."""
        computed: Computed = self._handler.compute(partition, records, *others)
        try:
            self._listen(partition, records, computed)
        except Exception:  # a caller gets no answer, a page no alert; the stream goes on
            logger.exception("what listens to a stage failed")
        return computed
