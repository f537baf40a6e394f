"""Every error that fraudstream raises on purpose.

```text
FraudstreamError              one clear line for a person; the command line exits with `exit_code`
├── UsageError                2    an argument or a file is wrong
│   ├── SettingsError         2    a setting is wrong
│   └── TooFewSamplesError    2    there are not enough transactions or labels yet
├── UnavailableError          3    a server does not answer, a port is taken, the disk is full
│   ├── NotAnsweringError     3    a server does not answer now: it may later
│   │   └── NotTakenError     3    a receiver answers, and does not accept this message now
│   ├── RejectedError         3    a receiver will never accept this message; it may accept others
│   ├── ClosedError           3    a receiver accepts nothing until somebody acts
│   └── BusyError             3    too much is in progress: try again
├── NotFoundError             4    an unknown card, terminal, transaction, topic or model
├── SchemaError               5    topics or tables are missing or differ from what is expected
├── VerificationError         6    `fraudstream verify` found something missing or different
└── StateError                70   a worker found an inconsistency that it cannot explain, and stops
    ├── ForeignWriterError   70  another writer has written to this partition's changelog
    ├── RowFormatError       70  a stored row was written with other settings or by another release
    └── DamagedLogError      70  a partition contains something that cannot be read
```
"""


class FraudstreamError(Exception):
    """Base of the tree: its text is one line that says what happened and what to do."""

    exit_code = 1


class UsageError(FraudstreamError):
    """An argument or an input file is wrong; the text names it."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is wrong; the text names it and what it accepts."""


class TooFewSamplesError(UsageError):
    """There are not enough transactions or labels to learn from or to compare with; there may be later."""


class UnavailableError(FraudstreamError):
    """Something outside this process cannot be used now: a server, a port, the disk."""

    exit_code = 3


class NotAnsweringError(UnavailableError):
    """A server does not answer now. Whoever can wait for it does."""


class NotTakenError(NotAnsweringError):
    """A receiver answers and does not accept a message. It may later, or the message is the reason: nobody can tell."""


class RejectedError(UnavailableError):
    """A receiver does not accept a message and says that it never will. It may accept others."""


class ClosedError(UnavailableError):
    """A receiver accepts no message at all until somebody acts."""


class BusyError(UnavailableError):
    """As much as is allowed is in progress."""


class NotFoundError(FraudstreamError):
    """What was asked for does not exist."""

    exit_code = 4


class SchemaError(FraudstreamError):
    """Topics or tables are missing or differ; the text names the command that mends it."""

    exit_code = 5


class VerificationError(FraudstreamError):
    """The stored results do not equal the recomputed ones."""

    exit_code = 6


class StateError(FraudstreamError):
    """A worker found what it cannot explain: it stops at once and is restarted.

    Nothing unfinished is acknowledged, so nothing is lost by stopping.
    """

    exit_code = 70


class ForeignWriterError(StateError):
    """A changelog batch landed where another writer's record stands (a zombie worker)."""


class RowFormatError(StateError):
    """A stored row has another version or was written under other window settings."""


class DamagedLogError(StateError):
    """What Kafka gives of a partition cannot be read from some offset on.

    Attributes:
        topic, partition, offset: where that is.
    """

    topic: str
    partition: int
    offset: int

    @classmethod
    def at(cls, tp: tuple[str, int], offset: int, what: str) -> "DamagedLogError":
        """The error at a place, with what is wrong there."""
        topic, partition = tp
        error = cls(
            f"{topic}/{partition} cannot be read from offset {offset} on: {what}; see docs/operations.md, "
            '"A partition cannot be read"'
        )
        error.topic, error.partition, error.offset = topic, partition, offset
        return error
