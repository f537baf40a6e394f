"""What follows when Cassandra does not accept a batch: what is repeated, after how long, and what is final. Pure."""

import random
from enum import Enum

from app.cassandra.cql_wire import ServerError
from app.cassandra.packed_rows import PackedTable
from app.errors import FraudstreamError, SchemaError, StateError, UnavailableError

#: The protocol's codes: the server has forgotten a statement; the user may not write.
_UNPREPARED, UNAUTHORIZED = 0x2500, 0x2100
#: Codes of requests that fail in the same way however often they are repeated; every other code is worth a retry.
REFUSED_FOR_EVER = frozenset({0x2000, UNAUTHORIZED, 0x2200, 0x2300})
_TOO_LARGE = "Batch too large"
#: Between attempts to write a batch that a node would not take now, seconds: the first, and the most.
_BACKOFF_SECONDS = (0.05, 5.0)


class WriteReaction(Enum):
    """What the writer does with a batch that was not accepted."""

    PREPARE = "prepare the statement again, and send the batch at once"
    PREPARE_AND_RETRY = "prepare the statement again, and send the batch after a delay"
    RETRY = "send it again after a delay"
    SMALLER = "send its halves, and smaller batches from now on"
    HALVES = "send its halves: they show which row is refused"
    GIVE_UP = "the first of its rows is refused, or all are: fail the writes"


def reaction(failure: ServerError, attempts: int, rows: int) -> WriteReaction:
    """What follows a failure.

    Args:
        failure: what the node answered.
        attempts: how often this batch has failed before.
        rows: how many it has.
    """
    if failure.code == _UNPREPARED:
        return WriteReaction.PREPARE if attempts == 0 else WriteReaction.PREPARE_AND_RETRY
    if failure.code not in REFUSED_FOR_EVER:
        return WriteReaction.RETRY
    if failure.code != UNAUTHORIZED and rows > 1:
        return WriteReaction.SMALLER if _TOO_LARGE in failure.message else WriteReaction.HALVES
    return WriteReaction.GIVE_UP


def delay_seconds(attempts: int, rng: random.Random) -> float:
    """How long a batch waits before its next attempt: twice as long each time, up to a bound, with jitter."""
    first, most = _BACKOFF_SECONDS
    return min(most, first * 2 ** min(attempts, 20)) * rng.uniform(0.5, 1.0)


def refusal(failure: ServerError, table: PackedTable, row: bytes | None) -> FraudstreamError:
    """The error of a final failure.

    Args:
        failure: what the node answered.
        table: where the row goes.
        row: what is refused; None: the statement.
    """
    if failure.code == UNAUTHORIZED:
        return UnavailableError(
            f"Cassandra forbids writing: {failure.message}; grant MODIFY to "
            "FRAUDSTREAM_CASSANDRA_USERNAME"
        )
    if row is None:
        return SchemaError(f"{failure.message}: run `fraudstream migrate`")
    return StateError(
        f"Cassandra refuses the {table.holds} of {table.place(row)}: {failure.message}"
    )
