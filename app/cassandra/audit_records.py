"""Who changed what, by pages and by commands: the table `audit_records`.

A record is written twice: before the change, as `started`, and after it, with how it ended. So there is no change
without a record: one whose record cannot be written is refused. If only the second write fails, or the process dies
in between, the record stays `started`, and the change may have been made.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from uuid import uuid4

from cassandra.cluster import Session

from app.cassandra.alert_queries import days_back
from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.session import explained
from app.domain.alert_policy import day_of
from app.errors import FraudstreamError, NotFoundError, SchemaError, UnavailableError, UsageError
from app.settings import Settings

logger = logging.getLogger(__name__)

#: How a change ended. FAILED: a server did not answer, so it may have been made in part.
STARTED, DONE, REFUSED, FAILED = "started", "done", "refused", "failed"
#: Days that are read at once: most are empty.
_DAYS_AT_ONCE = 16


@dataclass(frozen=True)
class AuditRecord:
    """One change.

    Attributes:
        at_ms: when it began, epoch milliseconds.
        by: who made it.
        role: of a user of the pages; `command` where a command made it.
        origin: the address of a browser, or user and host of a command.
        action: what was done, such as `verdict`.
        objects: what it was done to: `alert/ID`, `card/ID`, `terminal/ID`, `transaction/ID`, `rule/NAME`.
        result: `started`, `done`, `refused` or `failed`.
        details: what else is known of it.
        id: tells changes of one millisecond apart.
    """

    at_ms: int
    by: str
    role: str
    origin: str
    action: str
    objects: frozenset[str] = frozenset()
    result: str = STARTED
    details: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid4().hex)

    def ended(
        self, result: str, objects: frozenset[str] = frozenset(), **details: Any
    ) -> "AuditRecord":
        """The record of how the change ended, and of what has become known of it."""
        return replace(
            self,
            result=result,
            objects=self.objects | objects,
            details={**self.details, **details},
        )


def write_records(session: Session, settings: Settings, records: Sequence[AuditRecord]) -> None:
    """Write records; one with the same time and id is replaced.

    Raises:
        UnavailableError: Cassandra does not answer, or the user may not.
        SchemaError: the table is missing.
    """
    statement = (
        f"INSERT INTO {settings.keyspace}.audit_records (day, at, id, author, role, origin, action, objects, result, "  # noqa: S608
        f"details) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) USING TTL {settings.audit_ttl_seconds}"
    )
    with explained(settings):
        sent = [session.execute_async(statement, _values(record)) for record in records]
        for one in sent:
            one.result()


def _values(record: AuditRecord) -> tuple[Any, ...]:
    return (
        day_of(record.at_ms), moment_of(record.at_ms), record.id, record.by, record.role, record.origin,
        record.action, set(record.objects), record.result, json.dumps(record.details, ensure_ascii=False),
    )  # fmt: skip


def refusal(error: FraudstreamError) -> FraudstreamError:
    """What whoever wanted a change is told whose record could not be written."""
    return type(error)(f"nothing was changed: the audit record cannot be written: {error}")


@contextmanager
def recorded(session: Session, settings: Settings, record: AuditRecord) -> Iterator[dict[str, Any]]:
    """Around a change by a command; the dictionary takes further details.

    Raises:
        UnavailableError: the record cannot be written; the block does not run.
        SchemaError: the table is missing; the same.
    """
    try:
        write_records(session, settings, [record])
    except (UnavailableError, SchemaError) as error:
        raise refusal(error) from error
    details: dict[str, Any] = {}
    result = FAILED
    try:
        yield details
        result = DONE
    except (UsageError, NotFoundError) as error:
        result, details["why"] = REFUSED, str(error)
        raise
    except FraudstreamError as error:
        details["why"] = str(error)
        raise
    finally:
        try:
            write_records(session, settings, [record.ended(result, **details)])
        except FraudstreamError as error:
            logger.warning("%s", left_started(result, error))


def left_started(result: str, error: FraudstreamError) -> str:
    """What is said of a record whose second write failed."""
    return (
        f"the audit record of this change stays `started`, although the change is {result}: {error}"
    )


def read_records(
    session: Session, settings: Settings, *, from_ms: int, to_ms: int
) -> Iterator[AuditRecord]:
    """Records of a period, the newest first, read as they are asked for.

    Args:
        session: to read with.
        settings: keyspace.
        from_ms: the period's first millisecond, epoch.
        to_ms: the one after its last.

    Raises:
        UnavailableError, SchemaError: see `write_records`.
    """
    statement = (
        f"SELECT * FROM {settings.keyspace}.audit_records WHERE day = %s AND at >= %s AND at < %s"  # noqa: S608
    )
    bounds = moment_of(from_ms), moment_of(to_ms)
    days = days_back(from_ms, to_ms)
    with explained(settings):
        while some := list(islice(days, _DAYS_AT_ONCE)):
            asked = [session.execute_async(statement, (day, *bounds)) for day in some]
            for one in asked:
                for row in one.result():
                    yield _record_of(row)


def _record_of(row: Mapping[str, Any]) -> AuditRecord:
    texts = {
        name: row[column] or ""
        for name, column in (
            ("by", "author"), ("role", "role"), ("origin", "origin"), ("action", "action"), ("result", "result"),
        )
    }  # fmt: skip
    return AuditRecord(
        epoch_ms(row["at"]) or 0,
        objects=frozenset(row["objects"] or ()),
        details=json.loads(row["details"] or "{}"),
        id=row["id"],
        **texts,
    )
