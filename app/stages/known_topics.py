"""The ids of the topics that a partition's state was built from: a reserved row of each partition of each table.

The row is stored with the state that depends on the topics, not with the committed offsets: Kafka deletes those with
the topic.
"""

from collections.abc import Mapping

import msgspec

from app.blocks.core.row_groups import Row

#: Reserved rows start with a null byte; rows of cards and terminals with a letter.
TOPICS_KEY = b"\0topics"


class KnownTopics:
    """Ids of topics by name.

    Args:
        ids: the topics' ids when the state began, or when it first read from the topic.
        changes: how often the row was written: of two rows in the changelog, the one with the higher number is newer.
    """

    def __init__(self, ids: Mapping[str, str], changes: int = 0) -> None:
        self.ids = dict(ids)
        self.changes = changes

    @classmethod
    def read(cls, raw: bytes | None) -> "KnownTopics":
        """The stored row; a state of an earlier release without this row has no ids."""
        if raw is None:
            return cls({})
        return cls(_decoder.decode(raw[8:]), int.from_bytes(raw[:8], "big", signed=True))

    def encode(self) -> Row:
        """The reserved row."""
        return TOPICS_KEY, self.changes.to_bytes(8, "big", signed=True) + _encoder(self.ids)

    def differing(self, present: Mapping[str, str]) -> list[str]:
        """Names of topics whose id has changed, in the order of `present`."""
        return [name for name, one in present.items() if self.ids.get(name, one) != one]

    def adopt(self, present: Mapping[str, str]) -> bool:
        """Add the ids of topics that are not known yet; returns whether there are any."""
        added = {name: one for name, one in present.items() if name not in self.ids}
        self.ids |= added
        self.changes += bool(added)
        return bool(added)


_encoder = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(dict[str, str])
