"""The lock of migrations: a row that is written by lightweight transaction, with a TTL: a crashed owner's expires."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cassandra.cluster import Session

from app.cassandra.lightweight_transactions import is_unknown, settled
from app.errors import NotAnsweringError, SchemaError

#: A crashed owner's lock is gone after this. The lock is renewed before each statement, and a statement with
#: schema agreement takes at most a minute.
LOCK_SECONDS = 120
_LOCK_POLL_SECONDS = 0.5


@contextmanager
def schema_lock(
    session: Session, keyspace: str, seconds: int, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Hold the lock; gives what renews it, which raises if it has been lost.

    Raises:
        NotAnsweringError: Cassandra does not say who holds it.
    """
    owner = new_owner()
    acquire, extend, release = lock_statements(keyspace, "migrate", seconds)
    told: str | None = None
    known = time.monotonic()
    while (holder := claim(session, acquire, owner)) != owner:
        if holder is not None:
            known = time.monotonic()
        elif time.monotonic() - known > seconds:
            msg = (
                f"Cassandra did not report for {seconds} s who holds the migration lock of "
                f"{keyspace}: repeat the command"
            )
            raise NotAnsweringError(msg)
        if holder is not None and holder != told:
            say(
                f"waiting for {holder}, which is migrating {keyspace}; the lock of a crashed run expires "
                f"after {seconds} s"
            )
            told = holder
        time.sleep(_LOCK_POLL_SECONDS)

    def renew() -> None:
        if not settled(lambda: session.execute(extend, (owner, owner)).was_applied):
            msg = f"the migration lock of {keyspace} was lost (this run took too long): repeat the command"
            raise SchemaError(msg)

    try:
        yield renew
    finally:
        settled(lambda: session.execute(release, (owner,)))


def lock_statements(keyspace: str, name: str, seconds: int) -> tuple[str, str, str]:
    """Statements that take a lock (owner), extend it (owner, owner) and release it (owner); `seconds` is its TTL."""
    table = f"{keyspace}.schema_lock"
    acquire = (
        f"INSERT INTO {table} (name, owner) VALUES ('{name}', %s) IF NOT EXISTS USING TTL {seconds}"  # noqa: S608
    )
    extend = (
        f"UPDATE {table} USING TTL {seconds} SET owner = %s WHERE name = '{name}' IF owner = %s"  # noqa: S608
    )
    release = f"DELETE FROM {table} WHERE name = '{name}' IF owner = %s"  # noqa: S608
    return acquire, extend, release


def new_owner() -> str:
    """Names a run: host, process, and what tells it from an earlier process of that number."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def claim(session: Session, statement: str, owner: str) -> str | None:
    """Who holds the lock after an attempt to take it; None when nobody can tell."""
    try:
        row = session.execute(statement, (owner,)).one()
    except Exception as error:
        if not is_unknown(error):  # contention: it may or may not have been applied
            raise
        return None
    holder: str | None = owner if row["[applied]"] else row.get("owner")
    return holder
