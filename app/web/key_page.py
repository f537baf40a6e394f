"""`/cards/ID/` and `/terminals/ID/`: the state of a card or terminal, whichever worker has it."""

from typing import Any

from aiohttp import web

from app.cassandra.timeline import SHOWN
from app.domain.decision import decision_of
from app.domain.transaction import hash_id
from app.errors import FraudstreamError, NotFoundError, UnavailableError
from app.stages.block_rows import row_rules
from app.web import worker_requests
from app.web.forwarding import forward
from app.web.key_owner import OwnedElsewhere, OwnedHere
from app.web.key_state import key_state
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.url_ids import requested_id
from app.web.worker_protocol import WORKER, Worker
from app.windows.row_format import head_key
from app.windows.window_row import LoadRow, WindowRow


async def card(request: web.Request) -> web.Response:
    """`/cards/ID/`: the state of a card."""
    return await _key_view(request, "card")


async def terminal(request: web.Request) -> web.Response:
    """`/terminals/ID/`: the state of a terminal."""
    return await _key_view(request, "terminal")


async def _key_view(request: web.Request, kind: str) -> web.Response:
    worker = request.app[WORKER]
    identifier = requested_id(kind, request.rel_url.raw_path, request.rel_url.raw_query_string)
    place = worker.find(kind, identifier.encode())
    if isinstance(place, OwnedElsewhere):
        if worker_requests.ROUTED_HEADER in request.headers:
            msg = f"this {kind} is being reassigned to another worker; try again"
            raise UnavailableError(msg)
        return await forward(request, worker, place.url)
    if not isinstance(place, OwnedHere):
        raise UnavailableError(place.reason)
    state = read_key(kind, identifier, place.partition, place.load, worker)
    if wants_json(request):
        return json_reply(state)
    rows, fault = [], None
    try:
        rows = await worker.timeline(kind, identifier)
    except FraudstreamError as error:  # the state is shown all the same
        fault = str(error)
    for row in rows:
        row["decision"] = decision_of(row)
    links = {hash_id(row["transaction_id"]).hex(): row["transaction_id"] for row in rows}
    return page(
        "card_or_terminal.html",
        state=state,
        timeline=rows,
        shown=SHOWN,
        fault=fault,
        links=links,
    )


def read_key(
    kind: str, identifier: str, partition: int, load: LoadRow, worker: Worker
) -> dict[str, Any]:
    """The state of a card or terminal, as `state.key_state` has it.

    Raises:
        NotFoundError: no record names it.
        RowFormatError: its row was written by another release.
    """
    key = identifier.encode()
    if load(head_key(key)) is None:
        msg = f"no {kind} {identifier!r}: no transaction contains it"
        raise NotFoundError(msg)
    settings = worker.settings
    row = WindowRow.read(key, row_rules(settings), load)
    return key_state(
        kind,
        identifier,
        partition,
        row,
        worker.catalogue,
        currency=settings.currency,
        minor_unit_digits=settings.minor_unit_digits,
    )


PAGES = tuple(
    Route("GET", f"/{kind}s{rest}", handler, Role.ANALYST)
    for kind, handler in (("card", card), ("terminal", terminal))
    for rest in ("", r"/{id:[\s\S]*}")  # an id may hold a newline
)
