"""`/dead-letters/`: records that were refused, with reasons and filters."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from app.domain.refusal_reasons import (
    CHANGE_REASONS,
    LABEL_REASONS,
    LOG_REASONS,
    REASONS,
    UNREADABLE_REASONS,
)
from app.errors import UsageError
from app.kafka.dead_letter_list import DeadLetter
from app.kafka.recent_dead_letters import DeadLetterQuery
from app.web.alerts_page import moment_of
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER

_PARAMETERS = ("reason", "from", "to", "limit")
#: Records that a page shows, and the most that may be asked for.
_SHOWN, _MOST = 50, 500
#: Bytes of a key or value that are shown: `fraudstream deadletters show` prints all of it.
_SHOWN_BYTES = 2_000
#: By code, what is wrong with a record.
MEANINGS = {**REASONS, **LABEL_REASONS, **CHANGE_REASONS, **UNREADABLE_REASONS, **LOG_REASONS}


async def dead_letters(request: web.Request) -> web.Response:
    """The newest dead letters of a query, and how many there are of each reason."""
    asked = request.query
    query = _query(asked)
    found = await request.app[WORKER].dead_letters(query)
    letters = [described(letter) for letter in found.newest]
    counts = dict(found.counts.most_common())
    if wants_json(request):
        return json_reply(
            {"dead_letters": letters, "counts": counts, "read": found.read, "complete": found.complete}
        )  # fmt: skip
    return page(
        "dead_letters.html",
        letters=letters,
        counts=counts,
        read=found.read,
        complete=found.complete,
        reasons=sorted({*counts, query.reason or ""} - {""}),
        meanings=MEANINGS,
        shown_bytes=_SHOWN_BYTES,
        asked={name: asked.get(name, "") for name in _PARAMETERS},
    )


def _query(asked: Mapping[str, str]) -> DeadLetterQuery:
    """What the parameters of a request ask for.

    Raises:
        UsageError: one is unknown, or its value is none of its kind.
    """
    if unknown := sorted(asked.keys() - set(_PARAMETERS)):
        msg = f"unknown parameter {unknown[0]!r}: the parameters are {', '.join(_PARAMETERS)}"
        raise UsageError(msg)
    limit = asked.get("limit") or str(_SHOWN)
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        msg = f"limit {limit!r}: write a number from 1 to {_MOST:,}"
        raise UsageError(msg)
    begin, end = moment_of("from", asked), moment_of("to", asked)
    return DeadLetterQuery(asked.get("reason") or None, begin, end, int(limit))


def described(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as plain values: bytes that are not UTF-8 are escaped, long ones cut."""
    return {
        "source": letter.source,
        "reason": letter.reason,
        "message": letter.message,
        "refused_at_ms": letter.timestamp_ms,
        "redriven": letter.redriven,
        "key": _shown(letter.key),
        "value": _shown(letter.value),
        "value_bytes": None if letter.value is None else len(letter.value),
        "dead_letter_partition": letter.position[0],
        "dead_letter_offset": letter.position[1],
    }


def _shown(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    return raw[:_SHOWN_BYTES].decode(errors="backslashreplace")


PAGES = tuple(
    Route("GET", f"/dead-letters{rest}", dead_letters, Role.ANALYST) for rest in ("", "/", ".json")
)
