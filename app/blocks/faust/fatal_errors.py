"""Stop at once: nothing unfinished may ever be acknowledged. A supervisor outside restarts the worker."""

import errno
import logging
import os
import resource
import sys
from contextlib import suppress
from typing import NoReturn

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
)

from app.errors import FraudstreamError, NotAnsweringError, StateError, UnavailableError

logger = logging.getLogger(__name__)


def is_away(error: BaseException) -> bool:
    """Whether an error says that Kafka cannot answer now, and nothing of what it would have answered."""
    return isinstance(error, KafkaTimeoutError) or (
        isinstance(error, KafkaError) and error.retriable
    )


def exhausted(error: BaseException) -> UnavailableError | None:
    """What to do about an error of a full disk or of too many open files; None for any other error.

    RocksDB reports either only as text.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    for code, advice in (
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "the disk quota is used up: free some space"),
        (errno.EMFILE, f"{_too_many_files()}: raise it with `ulimit -n`"),
    ):
        if number == code or os.strerror(code) in text:
            where = f" ({text})" if text else ""
            return UnavailableError(f"{advice}, then start again; no data is lost{where}")
    return None


def forbidden(error: BaseException) -> UnavailableError | None:
    """What to do about an error of Kafka's that forbids something to our user; None for any other error."""
    for kind, what, grants in (
        (TopicAuthorizationFailedError, "topic", "READ, WRITE, DESCRIBE and DESCRIBE_CONFIGS"),
        (GroupAuthorizationFailedError, "consumer group", "READ and DESCRIBE"),
        (ClusterAuthorizationFailedError, "the cluster", "IDEMPOTENT_WRITE and DESCRIBE"),
    ):
        if isinstance(error, kind):
            named = [
                str(one)
                for arg in error.args
                for one in (arg if isinstance(arg, set | list | tuple) else [arg])
            ]
            return UnavailableError(
                f"Kafka forbids {' '.join([what, *sorted(named)])} to this user ({kind.__name__}): grant {grants} on "
                "it to FRAUDSTREAM_KAFKA_USERNAME, as `fraudstream grants` prints"
            )
    return None


def _too_many_files() -> str:
    return f"more than {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files, this process's limit"


def leave(code: int) -> NoReturn:
    """End this process now: everything is acknowledged or given up.

    Python would wait for the threads of the Cassandra driver first, and one that tries to reach a server that does
    not answer holds it for seconds (measured: 14 s instead of 8 to the end of a stop).
    """
    logging.shutdown()
    os._exit(code)


def halt(where: str, error: BaseException) -> NoReturn:
    """Say why in one line and end this process without running any further code.

    Args:
        where: topic and partition, or the part of the worker.
        error: what was found.
    """
    error = exhausted(error) or forbidden(error) or error
    if is_away(error):
        error = NotAnsweringError(
            f"Kafka does not answer ({error}): start the worker again when it does"
        )
    if isinstance(error, FraudstreamError):
        text = str(error)
    else:
        logger.error("unexpected error in %s", where, exc_info=error)
        text = f"{type(error).__name__}: {error}"
    code = error.exit_code if isinstance(error, FraudstreamError) else StateError.exit_code
    text = " ".join(text.split())  # Faust's own may have several lines
    with suppress(OSError):  # the disk that is full may be the log's
        print(f"fraudstream: worker stopped in {where}: {text}", file=sys.stderr, flush=True)
    leave(code)
