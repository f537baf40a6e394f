"""`/search?id=ID`: the page of whatever has this id, without having to say what it is."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.web.forwarding import ask_for_json
from app.web.key_owner import OwnedElsewhere, OwnedHere
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.url_ids import path_of
from app.web.worker_protocol import WORKER
from app.windows.row_format import head_key
from app.wire.input_records import MAX_ID_BYTES

KINDS = ("transaction", "card", "terminal", "alert")


async def search(request: web.Request) -> web.Response:
    """To the one page that there is, or a list of several."""
    name = request.query.get("id", "").strip()
    if not name or "\0" in name or len(name.encode()) > MAX_ID_BYTES:
        msg = f"an id has 1 to {MAX_ID_BYTES} bytes"
        raise UsageError(msg)
    answers = await asyncio.gather(*(_known(request, kind, name) for kind in KINDS))
    found = [
        {"kind": kind, "path": path_of(kind, name)}
        for kind, answer in zip(KINDS, answers, strict=True)
        if answer is True
    ]
    faults = [answer for answer in answers if isinstance(answer, str)]
    if not found:
        if faults:
            raise UnavailableError("; ".join(dict.fromkeys(faults)))
        msg = f"no transaction, card, terminal or alert has the id {name!r}"
        raise NotFoundError(msg)
    if wants_json(request):
        return json_reply({"found": found, "faults": faults})
    if len(found) == 1 and not faults:
        return web.Response(status=303, headers={"Location": found[0]["path"]})
    return page("search.html", id=name, found=found, faults=faults)


async def _known(request: web.Request, kind: str, name: str) -> bool | str:
    """Whether there is one; a text where that cannot be said now."""
    look: dict[str, Callable[[], Awaitable[bool]]] = {
        "transaction": lambda: _is_transaction(request, name),
        "alert": lambda: _is_alert(request, name),
    }
    try:
        return await look.get(kind, lambda: _is_key(request, kind, name))()
    except FraudstreamError as error:
        return str(error)


async def _is_transaction(request: web.Request, name: str) -> bool:
    return await request.app[WORKER].is_scored(name)


async def _is_alert(request: web.Request, name: str) -> bool:
    worker = request.app[WORKER]
    return await worker.look_up(worker.reviews.is_stored, name)


async def _is_key(request: web.Request, kind: str, name: str) -> bool:
    place = request.app[WORKER].find(kind, name.encode())
    if isinstance(place, OwnedHere):
        return place.load(head_key(name.encode())) is not None
    if not isinstance(place, OwnedElsewhere):
        raise UnavailableError(place.reason)
    answer = await ask_for_json(request, place.url, path_of(kind, name))
    if answer.status not in (200, 404):
        msg = f"the worker that has this {kind} answers with status {answer.status}"
        raise UnavailableError(msg)
    return answer.status == 200


PAGES = tuple(Route("GET", f"/search{rest}", search, Role.ANALYST) for rest in ("", "/", ".json"))
