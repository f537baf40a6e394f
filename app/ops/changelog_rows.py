"""The rows that a changelog stands for, as recovery takes them from its records."""

from collections.abc import Callable, Iterable
from typing import Any

from app.blocks.core.row_precedence import DELETED_KEY, Deletions, follows
from app.ops.verification.topic_log import Log
from app.topics import TopicSpec


class ChangelogRows:
    """Rows of one partition of a table.

    Attributes:
        rows: bytes by row key, of what was read so far.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self._deletions = Deletions()

    def take(self, records: Iterable[Any]) -> None:
        """Records of the changelog, in order: the highest offset of a row wins."""
        for record in records:
            key, raw = record.key, record.value
            if not follows(key, raw, self.rows.get(key), self._deletions):
                continue
            if raw is None:
                self.rows.pop(key, None)
                continue
            self.rows[key] = raw
            if key == DELETED_KEY:
                self._deletions = Deletions.read(raw)


async def read_rows(
    log: Log,
    topic: TopicSpec,
    number: int,
    begin: int,
    end: int,
    told: Callable[[int], None] = lambda offset: None,
) -> dict[bytes, bytes]:
    """The rows of one partition of a changelog.

    Args:
        log: with the changelog.
        topic: the changelog.
        number: the partition.
        begin: its first offset.
        end: where to stop.
        told: how far it has come, the offset after the last record.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    state = ChangelogRows()
    async for records in log.read(topic, number, begin, end):
        state.take(records)
        told(records[-1].offset + 1)
    return state.rows
