"""What stands in for records that cannot be read: their bytes as Kafka gave them, and what is wrong with them.

The parser of fetched batches (app/blocks/faust/fetch_parsing.py) makes one of it; every reader finds it where the value
would be. It is a kind of `bytes` of its own: no producer can forge it, and what looks at bytes only (size, hash, dead
letter) needs to know nothing of it.
"""


class Unreadable(bytes):
    """The value of a record that stands in for one or more that cannot be read.

    Attributes:
        reason: a code of `app/domain/refusal_reasons.py`.
        message: a sentence for people.
    """

    reason: str
    message: str

    @classmethod
    def of(cls, raw: bytes | memoryview, reason: str, message: str) -> "Unreadable":
        """The bytes, and why they cannot be read."""
        made = cls(raw)
        made.reason = reason
        made.message = message
        return made
