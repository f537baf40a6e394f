"""Under which feature schemas the transactions on `enriched` were begun: settings may have changed since."""

from collections.abc import Sequence

import msgspec
import orjson

from app.domain.features import Catalogue
from app.ops.verification.topic_log import Log, Progress
from app.settings import Settings
from app.topics import TopicSpec
from app.wire.erase_records import is_of_erasure
from app.wire.label_records import LABELS_VERSION


class _Message(msgspec.Struct, array_like=True):
    """As `EnrichedBatch`, its items left as they are."""

    version: int
    topic: str
    partition: int
    items: msgspec.Raw
    schema: str = ""


_decode = msgspec.msgpack.Decoder(_Message).decode


async def schemas_on(
    log: Log, topics: Sequence[TopicSpec], catalogue: Catalogue, progress: Progress
) -> dict[str, Catalogue]:
    """Catalogues by the schema that a message names, the settings' first.

    Messages of release 0.1.0 name none (the empty schema): their features are those of the oldest prediction.

    Args:
        log: the topics.
        topics: `enriched`, of every generation that there still is.
        catalogue: the settings'.
        progress: told how far it has come.

    Raises:
        SchemaError: this release, or these settings, compute something else under a schema.
    """
    found = {catalogue.schema: catalogue}
    for topic in topics:
        begins, ends = await log.begins(topic), await log.ends(topic)
        total, before = sum(ends) - sum(begins), 0
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            async for records in log.read(topic, number, begin, end):
                for schema in {_schema_of(record.value) for record in records}:
                    if schema is not None and schema not in found:
                        under = schema or await _oldest(log) or catalogue.schema
                        found[schema] = catalogue.under(under)
                progress("feature lists", before + records[-1].offset + 1 - begin, total)
            before += end - begin
    return found


def union_of(settings: Settings, schemas: dict[str, Catalogue]) -> Catalogue:
    """Every feature of some catalogues; the catalogue itself if there is one."""
    first, *others = schemas.values()
    names = dict.fromkeys(name for each in (first, *others) for name in each.names)
    if len(names) == len(first.names):
        return first
    return Catalogue(
        settings.windows,
        settings.minor_unit_digits,
        settings.timezone,
        tuple(names),
        settings.label_delay,
        first.own,
    )


def _schema_of(value: bytes | None) -> str | None:
    """What a message of transactions names; None for others, and for what cannot be read: that is found later."""
    if not value or value[1:2] == bytes((LABELS_VERSION,)) or is_of_erasure(value):
        return None
    try:
        return _decode(value).schema
    except msgspec.DecodeError:
        return None


async def _oldest(log: Log) -> str:
    """The schema of the oldest prediction that is left; empty without one."""
    topic = log.topics.predictions
    begins, ends = await log.begins(topic), await log.ends(topic)
    oldest: list[tuple[int, str]] = []
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        async for records in log.read(topic, number, begin, end):
            try:
                fields = orjson.loads(records[0].value or b"")
                oldest.append((records[0].timestamp, str(fields["feature_schema"])))
            except (ValueError, TypeError, KeyError):
                pass
            break
    return min(oldest, default=(0, ""))[1]
