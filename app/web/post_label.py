"""`POST /label`: what an analyst says of one transaction, from its page."""

import asyncio
import time
from urllib.parse import urlencode

from aiohttp import web

from app.errors import NotFoundError
from app.web.replies import RefusedError, json_reply, wants_json
from app.web.review_queue import VERDICTS
from app.web.roles import Role
from app.web.routes import Route, audited
from app.web.url_ids import path_of
from app.web.worker_protocol import WORKER, Worker
from app.wire.label_records import label_of_row

#: How long the page waits until the label is stored, so that it shows it; and how soon it looks first: then ever later.
_WAIT_SECONDS, _LOOK_SECONDS = 3.0, 0.1


async def judge(request: web.Request) -> web.Response:
    """Send a label; the latest one of a transaction wins."""
    worker, sent = request.app[WORKER], await request.post()
    name, card, verdict = (str(sent.get(one, "")) for one in ("transaction", "card", "verdict"))
    at = str(sent.get("event_time_ms", ""))
    audited(request, transaction=name, verdict=verdict)
    if verdict not in VERDICTS:
        raise RefusedError(400, f"verdict {verdict!r}: choose {', '.join(VERDICTS)}")
    found = await worker.transaction(name)
    rows = () if found is None else (found, *found["others"])
    row = next((r for r in rows if r["card_id"] == card and str(r["event_time_ms"]) == at), None)
    if row is None:
        msg = f"no transaction {name!r} of this card and time has been scored and stored"
        raise NotFoundError(msg)
    now_ms = time.time_ns() // 1_000_000
    await worker.send_labels([label_of_row(row, is_fraud=verdict == "fraud", at_ms=now_ms)])
    if wants_json(request):
        return json_reply({"transaction_id": name, "verdict": verdict})
    stored = await _is_stored(worker, name, int(at), now_ms)
    path = path_of("transaction", name)
    said = (
        f"labelled as {verdict}"
        if stored
        else f"label sent: {verdict}; it is shown when it is stored"
    )
    joint = "&" if "?" in path else "?"
    return web.Response(
        status=303, headers={"Location": f"{path}{joint}{urlencode({'said': said})}"}
    )


async def _is_stored(worker: Worker, name: str, event_time_ms: int, at_ms: int) -> bool:
    """Whether the label can be read already; looks by its key, which asks few nodes."""
    ends, pause = time.monotonic() + _WAIT_SECONDS, _LOOK_SECONDS
    while True:
        found = await worker.label(name, event_time_ms)
        if found is not None and found["labelled_at"] == at_ms:
            return True
        if time.monotonic() + pause > ends:
            return False
        await asyncio.sleep(pause)
        pause *= 2


PAGES = (Route("POST", "/label", judge, Role.ANALYST, action="label"),)
