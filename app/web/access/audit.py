"""What is written down about a change that somebody makes by a page: a line of the audit log, and an audit record.

The line is JSON, without ids of cards. The record is in Cassandra (`app/cassandra/audit_records.py`). It is written
before the handler runs: a change that cannot be recorded is refused.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from app.cassandra.audit_records import (
    DONE,
    FAILED,
    REFUSED,
    AuditRecord,
    left_started,
    refusal,
)
from app.errors import FraudstreamError
from app.web.roles import Viewer
from app.web.routes import Route, audit_details
from app.web.worker_protocol import WORKER

audit_log = logging.getLogger("fraudstream.audit")
audit_log.setLevel(logging.INFO)  # whatever the worker's log level: the record of changes is kept
logger = logging.getLogger("fraudstream.web")

_CLAIM = "claim"
#: Fields of forms that name what is changed, and those that say how.
_OBJECTS, _SAID = ("alert", "card", "terminal", "transaction"), ("verdict", "note")
#: The same among what handlers add: by their name there, the kind of what they name.
_NAMED = {"alert": "alert", "also": "alert", "transaction": "transaction"}


def record(request: web.Request, asker: Viewer, page: Route, status: int) -> None:
    """Log who changed what, from where, and how it ended."""
    audit_log.info(
        "%s",
        json.dumps(
            {
                "audit": page.path, "by": asker.name, "role": asker.role.title,
                "from": request.remote, "status": status, **audit_details(request),
            }
        ),
    )  # fmt: skip


async def begin(request: web.Request, asker: Viewer, page: Route) -> AuditRecord | None:
    """Write the record of a change that is about to be made; None: it needs none.

    Args:
        request: its body has arrived.
        asker: who wants it.
        page: what they want.

    Raises:
        UnavailableError: the record cannot be written.
        SchemaError: its table is missing.
    """
    if not page.action:
        return None
    sent = await request.post()
    objects = frozenset(
        f"{kind}/{one}"
        for kind in _OBJECTS
        for one in sent.getall(kind, [])
        if isinstance(one, str)
    )
    details = {name: sent[name] for name in _SAID if isinstance(sent.get(name), str) and sent[name]}
    begun = AuditRecord(
        time.time_ns() // 1_000_000,
        asker.name,
        asker.role.title,
        request.remote or "",
        page.action,
        objects,
        details=details,
    )
    try:
        await request.app[WORKER].keep_records(begun)
    except FraudstreamError as error:
        raise refusal(error) from error
    return begun


async def end(
    request: web.Request, begun: AuditRecord | None, status: int, why: str | None
) -> None:
    """Write how a change ended.

    Args:
        request: handlers have added to what is known of it.
        begun: its record; None: it has none.
        status: of HTTP.
        why: it was refused, or failed; None: it was made.
    """
    if begun is None:
        return
    ended = ended_records(begun, audit_details(request), status, why)
    try:
        await request.app[WORKER].keep_records(*ended)
    except FraudstreamError as error:
        logger.warning("%s", left_started(ended[0].result, error))


def ended_records(
    begun: AuditRecord, added: Mapping[str, Any], status: int, why: str | None
) -> list[AuditRecord]:
    """The record of an ended change; and of the claim, where another change took the next alert as well."""
    taken = frozenset(f"alert/{one}" for one in _several(added.get("took")))
    why = why or added.get("refused")
    if begun.action == _CLAIM and why is None and not taken:
        why = "there is no alert to take"
    result = DONE if why is None and status < 400 else REFUSED if status < 500 else FAILED
    objects = frozenset(
        f"{kind}/{one}" for name, kind in _NAMED.items() for one in _several(added.get(name))
    )
    details: dict[str, Any] = {"status": status}
    if "labels" in added:
        details["labels"] = added["labels"]
    if why is not None:
        details["why"] = why
    if begun.action == _CLAIM:
        return [begun.ended(result, objects | taken, **details)]
    found = [begun.ended(result, objects, **details)]
    if taken:
        claim = replace(begun, action=_CLAIM, objects=taken, details={"after": begun.action})
        found.append(replace(claim, result=DONE, id=f"{begun.id}-{_CLAIM}"))
    return found


def _several(named: Any) -> Iterable[str]:
    if not named:
        return ()
    return (named,) if isinstance(named, str) else named
