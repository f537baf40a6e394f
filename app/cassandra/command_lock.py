"""The lock of a command that must not run twice at once: a row with a TTL, renewed while the command works."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cassandra.cluster import Session

from app.cassandra.lightweight_transactions import settled
from app.cassandra.schema_lock import LOCK_SECONDS, claim, lock_statements, new_owner
from app.cassandra.session import explained
from app.errors import BusyError, FraudstreamError, NotAnsweringError
from app.settings import Settings

#: A lock is renewed so often before it expires.
_RENEWALS = 4


@contextmanager
def command_lock(
    session: Session, settings: Settings, command: str, seconds: float = LOCK_SECONDS
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a command; gives what checks that it is still held.

    Call the check right before each step that a second run must not take as well. It raises BusyError where the lock
    has been lost, for example because this machine was suspended.

    Args:
        session: a connection.
        settings: the deployment.
        command: its name.
        seconds: after which the lock of a crashed run expires.

    Raises:
        BusyError: another run holds it.
        NotAnsweringError: Cassandra does not say who holds it.
        SchemaError: the table is missing.
    """
    owner, ttl = new_owner(), int(max(1, seconds))
    acquire, extend, release = lock_statements(settings.keyspace, command, ttl)
    began = time.monotonic()
    with explained(settings):
        holder = settled(lambda: claim(session, acquire, owner))
    if holder is None:
        msg = f"Cassandra does not report whether another `fraudstream {command}` is running: try again"
        raise NotAnsweringError(msg)
    if holder != owner:
        msg = (
            f"another `fraudstream {command}` is running ({holder}): nothing is done; the lock of a crashed run expires"
            f" after {ttl} s"
        )
        raise BusyError(msg)
    held_until = began + ttl
    over = threading.Event()

    def renew() -> None:
        nonlocal held_until
        while not over.wait(ttl / _RENEWALS):
            now = time.monotonic()
            try:
                with explained(settings):
                    ours = settled(lambda: session.execute(extend, (owner, owner)).was_applied)
            except FraudstreamError:  # it may answer the next time
                continue
            held_until = now + ttl if ours else 0

    def check() -> None:
        if time.monotonic() >= held_until:
            msg = f"the lock of `fraudstream {command}` was lost, and another run may have begun: try again"
            raise BusyError(msg)

    renewing = threading.Thread(target=renew, name=f"{command} lock", daemon=True)
    renewing.start()
    try:
        yield check
    finally:
        over.set()
        renewing.join()
        with explained(settings):
            settled(lambda: session.execute(release, (owner,)))
