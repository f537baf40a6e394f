"""Offsets that an operator has given up, because Kafka cannot give what is there: records on `dead-letters`.

They lie in the partition of the same number as what they give up, and stay as long as dead letters do. Their key is
not that of a dead letter: who reads dead letters by their source passes over them.
"""

from typing import Any

import orjson
from aiokafka import TopicPartition

from app.errors import DamagedLogError
from app.kafka.clients import consumer
from app.settings import Settings
from app.topics import Topics

#: Their header, whose value is JSON: topic, partition, first, last, by, at, why.
SKIP = "skip"
_POLL_MS = 1_000


def skip_record(
    topic: str, partition: int, first: int, last: int, **audit: Any
) -> tuple[bytes, Any]:
    """Key and headers of the record that gives up offsets; its value is empty."""
    told = {"topic": topic, "partition": partition, "first": first, "last": last, **audit}
    return f"skip {topic}/{partition}/{first}".encode(), [(SKIP, orjson.dumps(told))]


def skip_in(record: Any) -> dict[str, Any] | None:
    """What a record on `dead-letters` gives up; None: it is another one."""
    if not (record.key or b"").startswith(b"skip "):
        return None
    try:
        told = orjson.loads(dict(record.headers).get(SKIP) or b"")
        first, last = told["first"], told["last"]
    except (ValueError, TypeError, KeyError):
        return None
    whole = type(first) is int and type(last) is int and isinstance(told.get("topic"), str)
    return told if whole else None


async def find_skip(settings: Settings, error: DamagedLogError) -> int | None:
    """The last offset that an operator has given up together with the one of the error; None: none has.

    Raises:
        UnavailableError: no broker answers.
    """
    tp = TopicPartition(Topics(settings).dead_letters.name, error.partition)
    async with consumer(settings) as reader:
        reader.assign([tp])
        end = (await reader.end_offsets([tp]))[tp]
        # not `seek_to_beginning`: the answer to the fetcher's own question for the end may come after it, and win
        reader.seek(tp, (await reader.beginning_offsets([tp]))[tp])
        while await reader.position(tp) < end:
            for record in (await reader.getmany(tp, timeout_ms=_POLL_MS)).get(tp, []):
                given_up = skip_in(record)
                if given_up is None or given_up["topic"] != error.topic:
                    continue
                if given_up["first"] <= error.offset <= given_up["last"]:
                    return int(given_up["last"])
    return None
