"""Looks up the transactions of parked labels again, outside of block processing, and sends copies of the labels."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.blocks.core.row_groups import Row
from app.blocks.faust.output_sender import Outputs, OutRecord
from app.domain.event_times import TimeUnit
from app.domain.transaction import DeadRecordError
from app.errors import NotAnsweringError
from app.stages.label_retry_schedule import RetrySchedule
from app.stages.parked_labels import (
    PREFIX,
    ParkedLabel,
    decide,
    given_up_copy,
    read_parked,
    record_of,
    row_key,
    whole_copy,
)
from app.wire.label_records import LabelRecord

logger = logging.getLogger(__name__)

#: Number of labels per look-up.
_BATCH = 500
#: Time between two checks for labels that are due.
_TICK_SECONDS = 0.1


class ParkedRows(Protocol):
    """The durable rows of the labels table."""

    def load(self, partition: int, key: bytes) -> bytes | None:
        """The stored bytes of a row."""

    def scan(self, partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The stored rows whose keys start with a prefix."""


@dataclass(frozen=True)
class ParkedSummary:
    """The parked labels of one partition, as pages show them.

    Attributes:
        partition: its number.
        labels: how many are parked.
        oldest_ms: when the broker appended the longest waiting one; None without any.
        oldest_id: the transaction that it waits for.
    """

    partition: int
    labels: int
    oldest_ms: int | None = None
    oldest_id: str | None = None


class LabelRetries:
    """The parked labels of this worker's partitions.

    It changes no row: the copy of the label on `labels` does that when it is processed. So a replay of `labels` gives
    the same rows.

    Args:
        topic: the topic of labels.
        rows: the table.
        find: returns the transactions with each id; raises `NotAnsweringError`.
        send: sends copies; returns once they are acknowledged.
        clock_ms: the current time, epoch milliseconds.
        label_wait_ms: how long a label may wait.
        max_future_skew_ms, time_unit: see `parse_label`.

    Attributes:
        partitions: the schedules, by partition.
        away: why the last look-up failed; None if it succeeded.
    """

    def __init__(
        self,
        topic: str,
        rows: ParkedRows,
        *,
        find: Callable[[Sequence[str]], Awaitable[list[list[dict[str, Any]]]]],
        send: Callable[[Outputs], Awaitable[Any]],
        clock_ms: Callable[[], int],
        label_wait_ms: int,
        max_future_skew_ms: int,
        time_unit: TimeUnit = "auto",
    ) -> None:
        self.partitions: dict[int, RetrySchedule] = {}
        self.away: str | None = None
        self._topic = topic
        self._rows = rows
        self._find = find
        self._send = send
        self._clock_ms = clock_ms
        self._label_wait = label_wait_ms
        self._rules = max_future_skew_ms, time_unit

    def hold(self, partitions: Collection[int]) -> None:
        """Take over partitions; the schedules are built from their rows."""
        now_ms = self._clock_ms()
        self.partitions = {
            partition: RetrySchedule.of(self._rows.scan(partition, PREFIX), now_ms)
            for partition in sorted(partitions)
        }

    def stored(self, partition: int, rows: list[Row]) -> None:
        """Rows of one of this worker's partitions are durable."""
        schedule = self.partitions.get(partition)
        if schedule is not None:
            schedule.take(rows, self._clock_ms())

    def parked(self) -> list[ParkedSummary]:
        """The parked labels, by partition."""
        return [self._parked(partition, one) for partition, one in self.partitions.items()]

    def _parked(self, partition: int, schedule: RetrySchedule) -> ParkedSummary:
        oldest = schedule.oldest
        if oldest is None:
            return ParkedSummary(partition, 0)
        raw = self._rows.load(partition, row_key(oldest[0]))
        name = None
        if raw is not None:
            label = self._label(oldest[0], read_parked(raw))
            name = label.transaction_id if isinstance(label, LabelRecord) else None
        return ParkedSummary(partition, len(schedule.waits), oldest[1], name)

    async def run(self) -> None:
        """Look up due labels until the worker stops."""
        while True:
            if not await self.look():
                await asyncio.sleep(_TICK_SECONDS)

    async def look(self) -> bool:
        """Look up some of the labels that are due; returns whether more may be due."""
        now_ms = self._clock_ms()
        more = False
        for partition, schedule in list(self.partitions.items()):
            due = schedule.due(now_ms, _BATCH)
            if due and self.partitions.get(partition) is schedule:
                try:
                    await self._look(partition, schedule, due, now_ms)
                except NotAnsweringError as error:
                    self.away = str(error)
                    return False  # Cassandra does not answer: no label expires, and all stay due
                self.away = None
                more = more or len(due) == _BATCH
        return more

    async def _look(
        self, partition: int, schedule: RetrySchedule, due: Sequence[int], now_ms: int
    ) -> None:
        labels: dict[int, LabelRecord] = {}
        copies: dict[int, OutRecord] = {}
        parked: dict[int, ParkedLabel] = {}
        for offset in due:
            raw = self._rows.load(partition, row_key(offset))
            if raw is None:
                continue
            parked[offset] = read_parked(raw)
            label = self._label(offset, parked[offset])
            if isinstance(label, LabelRecord):
                labels[offset] = label
            else:  # it was valid under earlier settings
                copies[offset] = self._give_up(
                    partition, offset, parked[offset], "unknown_transaction"
                )
        names = [label.transaction_id for label in labels.values()]
        found = await self._find(names) if names else []
        for (offset, label), same_id in zip(labels.items(), found, strict=True):
            what = decide(label, same_id)
            one = parked[offset]
            if isinstance(what, DeadRecordError):
                copies[offset] = self._give_up(partition, offset, one, what.reason)
            elif what is not None:
                copies[offset] = whole_copy(self._topic, partition, label, one, what)
            elif now_ms - one.timestamp > self._label_wait:
                copies[offset] = self._give_up(partition, offset, one, "unknown_transaction")
            else:
                schedule.looked(offset, now_ms)
        if copies:
            for offset in copies:
                schedule.copied(offset, now_ms)
            await self._send({(self._topic, partition): list(copies.values())})

    def _give_up(self, partition: int, offset: int, parked: ParkedLabel, reason: str) -> OutRecord:
        return given_up_copy(self._topic, partition, offset, parked, reason)

    def _label(self, offset: int, parked: ParkedLabel) -> LabelRecord | DeadRecordError:
        try:
            return record_of(parked, offset, *self._rules)
        except DeadRecordError as dead:
            return dead


def look_up_with(
    find: Callable[[Sequence[str]], Awaitable[list[list[dict[str, Any]]]]],
) -> Callable[[Sequence[LabelRecord]], Awaitable[Mapping[int, Any]]]:
    """The look-up of `LabelsHandler`; it finds nothing while Cassandra does not answer."""

    async def look_up(labels: Sequence[LabelRecord]) -> Mapping[int, Any]:
        try:
            found = await find([label.transaction_id for label in labels])
        except NotAnsweringError:
            return {}
        decided = {
            label.offset: decide(label, same_id)
            for label, same_id in zip(labels, found, strict=True)
        }
        return {offset: what for offset, what in decided.items() if what is not None}

    return look_up
