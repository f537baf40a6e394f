"""`/review/`: the queue of open alerts. Taking one, deciding it and giving it back are POSTs; programs get JSON."""

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import expected_loss
from app.domain.alert_seen import seen_of
from app.web.replies import RefusedError, json_reply, page, wants_json
from app.web.review_queue import ReviewQueue
from app.web.roles import Role
from app.web.routes import Route, audited, who
from app.web.worker_protocol import WORKER

REVIEWS = web.AppKey("reviews", ReviewQueue)
#: Alerts of the queue that the page lists.
_LISTED = 20
#: Alerts that an analyst can put aside for later.
_MOST_SKIPPED = 50


async def show(request: web.Request) -> web.Response:
    """The alert that the asker has taken (`?alert=ID`), and what else is in the queue."""
    queue, asker = request.app[REVIEWS], who(request)
    ranked, total = await queue.ranked(_LISTED)
    name = request.query.get("alert")
    shown = await queue.look(name) if name else None
    settings = request.app[WORKER].settings
    listed = [{**about(alert), "holder": holder} for alert, holder in ranked]
    if wants_json(request):
        return json_reply({"open": total, "alerts": listed})
    left_ms = 0
    if shown is not None and shown.state == "open" and shown.review.claimed_by == asker.name:
        left_ms = (shown.review.claimed_until or 0) - queue.now_ms()
    return page(
        "review.html",
        scripts=True,
        alert=None if shown is None else about(shown),
        review=None if shown is None else shown.review,
        mine=left_ms > 0,
        holder=None if shown is None else shown.review.holder(queue.now_ms()),
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


async def later(request: web.Request) -> web.Response:
    """Give an alert back, and take another one."""
    sent = await request.post()
    name = _field(sent, "alert")
    audited(request, alert=name)
    await request.app[REVIEWS].give_back(who(request).name, name)
    return await _next(request, _skipped([*sent.getall("skip", []), name]), {})


async def decide(request: web.Request) -> web.Response:
    """Decide an alert, or all of its card, and take the next one."""
    queue, by, sent = request.app[REVIEWS], who(request).name, await request.post()
    name, verdict, note = _field(sent, "alert"), _field(sent, "verdict"), str(sent.get("note", ""))
    audited(request, alert=name, verdict=verdict)
    seen = str(sent.get("seen", "")) or {str(one) for one in sent.getall("transaction", [])} or None
    labels = await queue.decide(by, name, verdict, seen, note)
    told: dict[str, Any] = {"verdict": verdict, "labels": labels, "alerts": 1, "with_others": 0}
    if sent.get("card"):  # its other open alerts, too
        decided, more, others = await queue.decide_card(by, str(sent["card"]), verdict, note)
        audited(request, also=decided)
        told |= {"labels": labels + more, "alerts": 1 + len(decided), "with_others": others}
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
        line = (
            f"{told['alerts']} decided as {told['verdict']}, {told['labels']} labels sent{others}"
        )
        query.append(("said", line))
    elif alert is None:
        query.append(("said", "all open alerts are taken"))
    return web.Response(status=303, headers={"Location": f"/review/?{urlencode(query)}"})


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
    Route("POST", "/review/next", take, Role.ANALYST),
    Route("POST", "/review/later", later, Role.ANALYST),
    Route("POST", "/review/verdict", decide, Role.ANALYST),
)
