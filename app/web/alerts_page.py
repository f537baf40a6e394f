"""`/alerts/`: the newest alerts, with filters."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aiohttp import web

from app.cassandra.alert_queries import AlertQuery
from app.domain.alert_policy import SEVERITIES
from app.durations import format_duration
from app.errors import UsageError
from app.settings import Settings
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER

#: Alerts that a page shows, and the most that may be asked for.
_SHOWN, _MOST = 100, 1_000
_PARAMETERS = ("from", "to", "severity", "card", "all", "limit")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def alerts(request: web.Request) -> web.Response:
    """The alerts of a query, newest first."""
    worker = request.app[WORKER]
    asked = request.query
    query = alert_query(asked, worker.settings, time.time_ns() // 1_000_000)
    found, more = await worker.alerts(query)
    if wants_json(request):
        return json_reply({"alerts": [alert.as_dict() for alert in found], "more": more})
    return page(
        "alerts.html",
        alerts=[alert.as_dict() for alert in found],
        more=more,
        asked={name: asked.get(name, "") for name in _PARAMETERS},
        severities=SEVERITIES,
        digits=worker.settings.minor_unit_digits,
        causes=_causes(worker.settings),
        window=format_duration(worker.settings.alert_window),
    )


#: What raises alerts, as `FRAUDSTREAM_ALERT_ON` names it.
_RAISED_BY = {
    "model": "those that the model flagged",
    "rule": "those that a rule declined or sent to review, and those that the block list declined",
    "anomaly": "those that are flagged as anomalies",
}


def _causes(settings: Settings) -> str:
    """Which transactions raise alerts, in words; empty if none do."""
    return "; ".join(_RAISED_BY[cause] for cause in settings.alert_on)


def alert_query(asked: Mapping[str, str], settings: Settings, now_ms: int) -> AlertQuery:
    """What the parameters of a request ask for.

    Raises:
        UsageError: one is unknown, its value is none of its kind, or there is a period beside a card.
    """
    if unknown := sorted(asked.keys() - set(_PARAMETERS)):
        msg = f"unknown parameter {unknown[0]!r}: the parameters are {', '.join(_PARAMETERS)}"
        raise UsageError(msg)
    card = asked.get("card") or None
    if card is not None and (asked.get("from") or asked.get("to")):
        msg = "card lists the alerts of a card from all times: leave out from and to"
        raise UsageError(msg)
    severity = asked.get("severity") or SEVERITIES[0]
    if severity not in SEVERITIES:
        msg = f"severity {severity!r} is unknown: choose {', '.join(SEVERITIES)}"
        raise UsageError(msg)
    limit = asked.get("limit") or str(_SHOWN)
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        msg = f"limit {limit!r}: write a number from 1 to {_MOST:,}"
        raise UsageError(msg)
    return AlertQuery.of(
        now_ms,
        settings.max_future_skew,
        moment_of("from", asked),
        moment_of("to", asked),
        severity=severity,
        card_id=card,
        everything=asked.get("all", "") not in ("", "0"),
        limit=int(limit),
    )


def moment_of(name: str, asked: Mapping[str, str]) -> int | None:
    """A parameter that is a time, epoch milliseconds; None without it.

    Raises:
        UsageError: it is none.
    """
    text = asked.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{name} {text!r}: write a date or a time, such as 2026-11-29 or 2026-11-29T06:00Z"
        raise UsageError(msg) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (found - _EPOCH) // timedelta(milliseconds=1)


PAGES = tuple(Route("GET", f"/alerts{rest}", alerts, Role.ANALYST) for rest in ("", "/", ".json"))
