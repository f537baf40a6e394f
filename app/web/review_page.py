"""`/review/`: the queue of open alerts, and any alert that is opened. Changes are POSTs; programs get JSON."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import expected_loss
from app.domain.alert_seen import seen_of
from app.web.replies import RefusedError, json_reply, page, wants_json
from app.web.review_queue import ReviewQueue
from app.web.roles import Role
from app.web.routes import Route, audit_details, audited, who
from app.web.worker_protocol import WORKER

REVIEWS = web.AppKey("reviews", ReviewQueue)
#: Alerts of the queue that the page lists.
_LISTED = 20
#: Terminals of an alert whose other alerts can be decided with it.
_MOST_TERMINALS = 3
#: Alerts that an analyst can put aside for later.
_MOST_SKIPPED = 50


async def show(request: web.Request) -> web.Response:
    """One alert (`?alert=ID`), whoever has it, and what else is in the queue."""
    queue, asker = request.app[REVIEWS], who(request)
    ranked, total = await queue.ranked(_LISTED)
    name = request.query.get("alert")
    shown = await queue.look(name) if name else None
    settings = request.app[WORKER].settings
    listed = [{**about(alert), "holder": holder} for alert, holder in ranked]
    now = queue.now_ms()
    if wants_json(request):
        found: dict[str, Any] = {"open": total, "alerts": listed}
        if shown is not None:
            found["alert"] = {**about(shown), "holder": shown.review.holder(now)}
        return json_reply(found)
    left_ms = 0
    if shown is not None and shown.todo and shown.review.claimed_by == asker.name:
        left_ms = (shown.review.claimed_until or 0) - now
    return page(
        "review.html",
        scripts=True,
        alert=None if shown is None else about(shown),
        review=None if shown is None else shown.review,
        mine=left_ms > 0,
        holder=None if shown is None else shown.review.holder(now),
        earlier=[] if shown is None else _earlier(shown),
        terminals=[] if shown is None else _terminals(shown.todo),
        asker=asker.name,
        skip=_skipped(request.query.getall("skip", [])),
        said=request.query.get("said", ""),
        open=total,
        listed=listed,
        minutes=max(1, round(left_ms / 60_000)),
        digits=settings.minor_unit_digits,
    )  # fmt: skip


async def take(request: web.Request) -> web.Response:
    """Take the next alert."""
    return await _next(request, _skipped((await request.post()).getall("skip", [])), {})


async def take_this(request: web.Request) -> web.Response:
    """Take exactly one alert; a page says who has it otherwise."""
    name = _field(await request.post(), "alert")
    audited(request, alert=name)
    query = {"alert": name}
    try:
        alert = await request.app[REVIEWS].take(who(request).name, name)
    except RefusedError as error:
        if wants_json(request):
            raise
        query["said"] = str(error)
        audited(request, refused=str(error))
    else:
        audited(request, took=name)
        if wants_json(request):
            return json_reply({"next": about(alert)})
    return _to(query.items())


async def later(request: web.Request) -> web.Response:
    """Give an alert back, and take another one."""
    sent = await request.post()
    name = _field(sent, "alert")
    audited(request, alert=name)
    await request.app[REVIEWS].give_back(who(request).name, name)
    return await _next(request, _skipped([*sent.getall("skip", []), name]), {})


async def decide(request: web.Request) -> web.Response:
    """Decide an alert, or all of its card or at its terminals, and take the next one."""
    queue, by, sent = request.app[REVIEWS], who(request).name, await request.post()
    name, verdict, note = _field(sent, "alert"), _field(sent, "verdict"), str(sent.get("note", ""))
    audited(request, alert=name, verdict=verdict)
    seen = str(sent.get("seen", "")) or {str(one) for one in sent.getall("transaction", [])} or None
    labels = await queue.decide(by, name, verdict, seen, note)
    audited(request, labels=labels)
    told: dict[str, Any] = {"verdict": verdict, "labels": labels, "alerts": 1, "with_others": 0}
    for field, decide_all in (("card", queue.decide_card), ("terminal", queue.decide_terminal)):
        for one in sent.getall(field, []):  # other open alerts, too
            decided, more, others = await decide_all(by, str(one), verdict, note)
            audited(request, also=[*audit_details(request).get("also", ()), *decided])
            told["labels"] += more
            audited(request, labels=told["labels"])
            told["alerts"] += len(decided)
            told["with_others"] += others
    return await _next(request, _skipped(sent.getall("skip", [])), told)


async def _next(request: web.Request, skip: list[str], told: dict[str, Any]) -> web.Response:
    alert = await request.app[REVIEWS].next(who(request).name, skip)
    if alert is not None:
        audited(request, took=alert.alert_id)
    if wants_json(request):
        return json_reply({**told, "next": None if alert is None else about(alert)})
    query = [("skip", name) for name in skip]
    if alert is not None:
        query.append(("alert", alert.alert_id))
    if told:
        others = f"; {told['with_others']} are taken by others" if told["with_others"] else ""
        labels = f"{told['labels']} label{'' if told['labels'] == 1 else 's'}"
        line = f"{told['alerts']} decided as {told['verdict']}, {labels} sent{others}"
        query.append(("said", line))
    elif alert is None:
        query.append(("said", "all open alerts are taken or left for later"))
    return _to(query)


def _to(query: Iterable[tuple[str, str]]) -> web.Response:
    return web.Response(status=303, headers={"Location": f"/review/?{urlencode(list(query))}"})


def _earlier(alert: Alert) -> list[dict[str, Any]]:
    """Transactions of an open alert that somebody has seen to."""
    todo = {id(row) for row in alert.todo}
    return [row for row in alert.transactions if id(row) not in todo] if todo else []


def _terminals(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Terminals of some transactions, as many as a form offers."""
    found = dict.fromkeys(row["terminal_id"] for row in rows if row["terminal_id"])
    return list(found)[:_MOST_TERMINALS]


def about(alert: Alert) -> dict[str, Any]:
    """An alert as plain values, with the transactions to decide, their expected loss, and what names them.

    Where nothing is to be decided, all transactions are there.
    """
    rows = alert.todo or alert.transactions
    return {
        **alert.as_dict(),
        "transactions": rows,
        "amount_minor": sum(row["amount_minor"] for row in rows),
        "earlier": len(alert.transactions) - len(rows),
        "loss_minor": round(expected_loss(rows)),
        "seen": seen_of(rows),
    }


def _field(sent: Any, name: str) -> str:
    value = sent.get(name)
    if not value:
        raise RefusedError(400, f"{name} is missing")
    return str(value)


def _skipped(names: Any) -> list[str]:
    return list(dict.fromkeys(map(str, names)))[-_MOST_SKIPPED:]


PAGES = (
    *(Route("GET", f"/review{rest}", show, Role.ANALYST) for rest in ("", "/", ".json")),
    Route("POST", "/review/next", take, Role.ANALYST, action="claim"),
    Route("POST", "/review/take", take_this, Role.ANALYST, action="claim"),
    Route("POST", "/review/later", later, Role.ANALYST, action="release"),
    Route("POST", "/review/verdict", decide, Role.ANALYST, action="verdict"),
)
