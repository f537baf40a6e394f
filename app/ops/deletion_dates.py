"""When the records that a topic has now are gone at the latest, from its configuration.

Kafka deletes and compacts whole segments, never the one that is written. So what counts is when the segment of a record
is closed: `segment.ms` after its first record, when the next record comes.
"""

from collections.abc import Mapping

from app.durations import DAY_MS

#: How often a broker looks for what it may delete, by default (`log.retention.check.interval.ms`), twice.
_BROKER_MS = 10 * 60_000
#: Kafka's own defaults, where a broker does not tell.
_SEGMENT_MS, _FILE_MS, _TOMBSTONE_MS = 7 * DAY_MS, 60_000, DAY_MS
_NEVER_MS = 1 << 62


def gone_by(config: Mapping[str, str], now_ms: int) -> int | None:
    """When all that a topic has now is gone, epoch milliseconds; None: its configuration sets no date.

    Of a compacted topic it is the date for rows that were deleted, and for their deletions. It holds as long as the
    partition gets records: Kafka closes no segment of a compacted topic without one.

    Args:
        config: of the topic, as Kafka spells it.
        now_ms: when its newest record was appended, at the latest.
    """
    segment_ms = _number(config, "segment.ms", _SEGMENT_MS)
    slack_ms = _number(config, "file.delete.delay.ms", _FILE_MS) + _BROKER_MS
    if "delete" in config.get("cleanup.policy", "delete").split(","):
        retention_ms = _number(config, "retention.ms", 7 * DAY_MS)
        return None if retention_ms < 0 else now_ms + segment_ms + retention_ms + slack_ms
    lag_ms = _number(config, "max.compaction.lag.ms", _NEVER_MS)
    if lag_ms >= _NEVER_MS // 2:
        return None
    # closed and compacted within the lag; the deletion itself goes with a later compaction, once it is old enough
    tombstone_ms = _number(config, "delete.retention.ms", _TOMBSTONE_MS)
    return now_ms + 2 * lag_ms + tombstone_ms + slack_ms


def _number(config: Mapping[str, str], key: str, default: int) -> int:
    try:
        return int(config.get(key, default))
    except ValueError:
        return default
