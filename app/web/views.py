"""One handler a page. What they know of the worker is in `worker_protocol.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from app.domain.features import Catalogue
from app.domain.transaction import hash_id
from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.formats import in_order
from app.metrics.prometheus import WorkerMetrics
from app.stages.state import row_rules
from app.web import page_templates, peers
from app.web.access.checks import ACCESS, AccessChecks
from app.web.alerts import PAGES as ALERT_PAGES
from app.web.alerts import moment_of
from app.web.dashboard import PAGES as DASHBOARD_PAGES
from app.web.dashboard import STREAMS
from app.web.dashboard_data import LIVE, DashboardData
from app.web.forwarding import SERVED_BY_HEADER, forward
from app.web.ids import requested_id
from app.web.key_owner import OwnedElsewhere, OwnedHere
from app.web.key_state import key_state
from app.web.label import PAGES as LABEL_PAGES
from app.web.login import PAGES as LOGIN_PAGES
from app.web.models import PAGES as MODEL_PAGES
from app.web.replies import json_reply, page, present_errors, wants_json
from app.web.review import PAGES as REVIEW_PAGES
from app.web.review import REVIEWS
from app.web.review_queue import ReviewQueue
from app.web.roles import Role
from app.web.routes import Route
from app.web.search import PAGES as SEARCH_PAGES
from app.web.worker_protocol import WORKER, Worker
from app.windows.row_format import head_key
from app.windows.window_row import LoadRow, WindowRow

METRICS = web.AppKey("metrics", WorkerMetrics)
#: Lets a command see that the worker it found belongs to its own deployment.
DEPLOYMENT_HEADER = "X-Fraudstream-Deployment"
_STYLE_SECONDS = 86_400


def install(
    application: web.Application, worker: Worker, table: Sequence[Route] | None = None
) -> None:
    """Put the views of a worker on a web application that has not started.

    Args:
        application: the worker's.
        worker: what they show.
        table: the table of pages; ours if not given.

    Raises:
        SettingsError: the file of users cannot be used.
    """
    routes: dict[Any, Route] = {}
    for one in PAGES if table is None else table:
        routes[application.router.add_route(one.method, one.path, one.handler)] = one
        if one.method == "GET":
            routes[application.router.add_route("HEAD", one.path, one.handler)] = one
    access = AccessChecks(worker.settings, worker.url, routes)

    @web.middleware
    async def sign(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        response.headers.setdefault(SERVED_BY_HEADER, worker.url)
        response.headers[DEPLOYMENT_HEADER] = worker.deployment
        header = request.headers.get(peers.PEER_HEADER)
        if header and access.peers and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes) else b""
            kind = response.headers.get("Content-Type", "")
            response.headers[peers.PROOF_HEADER] = peers.prove(
                access.peers, header, response.status, kind, body
            )
        return response

    application[WORKER], application[ACCESS], application[METRICS] = worker, access, WorkerMetrics()
    application[REVIEWS] = ReviewQueue(worker)
    application[LIVE] = live = DashboardData(worker, access)
    application[STREAMS] = set()
    application.cleanup_ctx.append(live.running)
    application.middlewares.extend((sign, present_errors, access.middleware))


async def prometheus(request: web.Request) -> web.Response:
    """`/metrics`: for Prometheus."""
    worker = request.app[WORKER]
    reading = await worker.reading()
    reading.drift = await worker.drift()
    text = request.app[METRICS].text(reading)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def card(request: web.Request) -> web.Response:
    """`/cards/ID/`: the state of a card."""
    return await _key_view(request, "card")


async def terminal(request: web.Request) -> web.Response:
    """`/terminals/ID/`: the state of a terminal."""
    return await _key_view(request, "terminal")


async def _key_view(request: web.Request, kind: str) -> web.Response:
    worker = request.app[WORKER]
    identifier = _requested_id(request, kind)
    place = worker.find(kind, identifier.encode())
    if isinstance(place, OwnedElsewhere):
        if peers.ROUTED_HEADER in request.headers:
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
    links = {hash_id(row["transaction_id"]).hex(): row["transaction_id"] for row in rows}
    return page("key.html", state=state, timeline=rows, fault=fault, links=links)


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
        msg = f"no {kind} {identifier!r}: no transaction names it"
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


async def transaction(request: web.Request) -> web.Response:
    """`/transactions/ID/`: a scored transaction, from Cassandra."""
    worker = request.app[WORKER]
    identifier = _requested_id(request, "transaction")
    found = await worker.transaction(identifier)
    if found is None:
        msg = f"no transaction {identifier!r} has been scored and stored"
        raise NotFoundError(msg)
    if wants_json(request):
        return json_reply(found)
    settings = worker.settings
    return page(
        "transaction.html",
        id=identifier,
        rows=[
            {
                **row,
                "explained": explained(row["features"], worker.catalogue, worker.pushes(row)),
                "further": further_fields(row),
            }
            for row in (found, *found["others"])
        ],
        digits=settings.minor_unit_digits,
        currency=settings.currency,
        said=request.query.get("said", ""),
    )


async def quality(request: web.Request) -> web.Response:
    """`/quality/`: how good decisions were, by the labels that have come."""
    asked = request.query
    if unknown := sorted(asked.keys() - {"from", "to"}):
        msg = f"unknown parameter {unknown[0]!r}: the parameters are from and to"
        raise UsageError(msg)
    period = moment_of("from", asked), moment_of("to", asked)
    result = await request.app[WORKER].quality(*period)
    if wants_json(request):
        return json_reply(result)
    tables = {
        "": {"All": result["total"]},
        "By model": result["by_model"],
        "By day": dict(reversed(result["by_day"].items())),
    }
    shown = {name: asked.get(name, "") for name in ("from", "to")}
    return page("quality.html", result=result, tables=tables, asked=shown)


def explained(
    features: Mapping[str, float | None],
    catalogue: Catalogue,
    pushes: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """Stored features with what the catalogue says of them; of an older catalogue's, the name alone.

    Args:
        features: by name.
        catalogue: the deployment's.
        pushes: by name: baseline, and how far the value moved the score; empty: unknown.

    Returns:
        What moved the score most first, otherwise in the catalogue's order; `bar`: -100 to 100, a share of the
        strongest, None: unknown.
    """
    known = {feature.name: feature for feature in catalogue.columns}
    most = max((abs(push) for _, push in pushes.values()), default=0.0) or 1.0
    names = sorted(
        in_order(features, catalogue.names),
        key=lambda item: -abs(pushes[item[0]][1]) if item[0] in pushes else 0.0,
    )
    return [
        {
            "name": name,
            "value": value,
            "baseline": pushes[name][0] if name in pushes else None,
            "bar": round(100 * pushes[name][1] / most, 1) if name in pushes else None,
            "unit": known[name].unit if name in known else "",
            "formula": known[name].formula if name in known else "",
        }
        for name, value in names
    ]


def further_fields(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the input said beyond our fields, as text."""
    return [
        (name, value if isinstance(value, str) else orjson.dumps(value).decode())
        for name, value in (row.get("extra") or {}).items()
    ]


def _requested_id(request: web.Request, kind: str) -> str:
    return requested_id(kind, request.rel_url.raw_path, request.rel_url.raw_query_string)


async def live(_request: web.Request) -> web.Response:
    """`/health/live`: the event loop runs, or nobody would answer."""
    return json_reply({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """`/health/ready`: 200 when this worker does its work, else 503 with the reasons; and who waits for what."""
    worker = request.app[WORKER]
    return readiness(await worker.reasons(), worker.waits())


def readiness(reasons: list[str], waits: list[str]) -> web.Response:
    """The answer to a readiness probe."""
    status = "not ready" if reasons else "ready"
    answer: Mapping[str, Any] = {"status": status, "reasons": reasons, "waits": waits}
    return json_reply(answer, 503 if reasons else 200)


async def style_sheet(_request: web.Request) -> web.Response:
    """The style sheet; its address changes with it, so a browser may keep it."""
    return kept_by_browsers(page_templates.style(), "text/css")


async def static_file(request: web.Request) -> web.Response:
    """A script, or what belongs to it; the address changes with the release."""
    name = request.match_info["name"]
    if name not in page_templates.STATIC:
        msg = f"no file {name!r}"
        raise NotFoundError(msg)
    return kept_by_browsers(page_templates.static(name), page_templates.STATIC[name])


def kept_by_browsers(text: str, content_type: str) -> web.Response:
    """A file of ours."""
    response = web.Response(text=text, content_type=content_type, charset="utf-8")
    response.headers["Cache-Control"] = f"public, max-age={_STYLE_SECONDS}"
    return response


_KEYS = (("card", card), ("terminal", terminal), ("transaction", transaction))
#: Every page; tables of other modules come behind.
PAGES: tuple[Route, ...] = (
    *(
        Route("GET", f"/{kind}s{rest}", handler, Role.ANALYST)
        for kind, handler in _KEYS
        for rest in ("", r"/{id:[\s\S]*}")  # an id may hold a newline
    ),
    *(Route("GET", f"/quality{rest}", quality, Role.VIEWER) for rest in ("", "/", ".json")),
    Route("GET", "/metrics", prometheus, Role.VIEWER),
    Route("GET", "/health/live", live, Role.PUBLIC, any_host=True),
    Route("GET", "/health/ready", ready, Role.PUBLIC, any_host=True),
    Route("GET", "/style.css", style_sheet, Role.PUBLIC),
    Route("GET", "/static/{name}", static_file, Role.PUBLIC),
    *ALERT_PAGES,
    *DASHBOARD_PAGES,
    *LABEL_PAGES,
    *MODEL_PAGES,
    *SEARCH_PAGES,
    *REVIEW_PAGES,
    *LOGIN_PAGES,
)
