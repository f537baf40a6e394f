"""One handler a page. What they know of the worker is `ports.Worker`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from app.domain.features import Catalogue
from app.durations import format_duration
from app.errors import NotFoundError, UnavailableError
from app.formats import age, in_order, iso
from app.metrics.prometheus import WorkerMetrics, release
from app.metrics.reading import is_of_labels
from app.stages.state import row_rules
from app.web import pages, peers
from app.web.alerts import PAGES as ALERT_PAGES
from app.web.guard import GUARD, Guard
from app.web.ids import requested_id
from app.web.key_state import key_state
from app.web.login import PAGES as LOGIN_PAGES
from app.web.replies import json_reply, page, present_errors, wants_json
from app.web.roles import Role
from app.web.routes import Page, who
from app.web.worker_protocol import WORKER, Elsewhere, Here, Worker
from app.windows.row_format import head_key
from app.windows.window_row import LoadRow, WindowRow

METRICS = web.AppKey("metrics", WorkerMetrics)
SERVED_BY_HEADER = "X-Fraudstream-Served-By"
#: Lets a command see that the worker it found belongs to its own deployment.
DEPLOYMENT_HEADER = "X-Fraudstream-Deployment"
_FORWARDED_HEADERS = ("Accept", "Accept-Language", "User-Agent")
_STYLE_SECONDS = 86_400
#: The order in which people think of outcomes; any other comes behind.
_OUTCOMES = (
    "enriched", "scored", "late", "conflicting", "duplicate", "refund", "dead", "moved", "replayed",
)  # fmt: skip


def install(
    application: web.Application, worker: Worker, table: Sequence[Page] | None = None
) -> None:
    """Put the views of a worker on a web application that has not started.

    Args:
        application: the worker's.
        worker: what they show.
        table: the table of pages; ours if not given.

    Raises:
        SettingsError: the file of users cannot be used.
    """
    routes: dict[Any, Page] = {}
    for one in PAGES if table is None else table:
        routes[application.router.add_route(one.method, one.path, one.handler)] = one
        if one.method == "GET":
            routes[application.router.add_route("HEAD", one.path, one.handler)] = one
    guard = Guard(worker.settings, worker.url, routes)

    @web.middleware
    async def sign(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        response.headers.setdefault(SERVED_BY_HEADER, worker.url)
        response.headers[DEPLOYMENT_HEADER] = worker.deployment
        header = request.headers.get(peers.PEER_HEADER)
        if header and guard.peers and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes) else b""
            kind = response.headers.get("Content-Type", "")
            response.headers[peers.PROOF_HEADER] = peers.prove(
                guard.peers, header, response.status, kind, body
            )
        return response

    application[WORKER], application[GUARD], application[METRICS] = worker, guard, WorkerMetrics()
    application.middlewares.extend((sign, present_errors, guard.middleware))


async def prometheus(request: web.Request) -> web.Response:
    """`/metrics`: for Prometheus."""
    text = request.app[METRICS].text(await request.app[WORKER].reading())
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
    if isinstance(place, Elsewhere):
        if peers.ROUTED_HEADER in request.headers:
            msg = f"this {kind} is being reassigned to another worker; try again"
            raise UnavailableError(msg)
        return await forward(request, worker, place.url)
    if not isinstance(place, Here):
        raise UnavailableError(place.reason)
    state = read_key(kind, identifier, place.partition, place.load, worker)
    if wants_json(request):
        return json_reply(state)
    return page("key.html", state=state)


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


async def forward(
    request: web.Request,
    worker: Worker,
    url: str,
    body: bytes | None = None,
    further_headers: Sequence[str] = (),
) -> web.Response:
    """Another worker's answer to a request.

    Raises:
        UnavailableError: it does not answer, or is none of this deployment.
    """
    guard, target, path = request.app[GUARD], peers.origin_of(url), request.rel_url.raw_path_qs
    headers = {
        name: request.headers[name]
        for name in (*_FORWARDED_HEADERS, *further_headers)
        if name in request.headers
    }
    headers[peers.ROUTED_HEADER] = worker.url
    if guard.peers is not None:
        asker = peers.ask(guard.peers, who(request), target, request.method, path, time.time())
        headers[peers.PEER_HEADER] = asker
    elif not guard.open:
        msg = f"another worker holds it ({target}): workers ask each other only with FRAUDSTREAM_WEB_SECRET"
        raise UnavailableError(msg)
    answer = await worker.forward(target + path, request.method, headers, body)
    if guard.peers is not None:
        answer = peers.checked(guard.peers, headers[peers.PEER_HEADER], answer, target)
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, SERVED_BY_HEADER: target},
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
                "explained": explained(row["features"], worker.catalogue),
                "further": further_fields(row),
            }
            for row in (found, *found["others"])
        ],
        digits=settings.minor_unit_digits,
        currency=settings.currency,
    )


async def quality(request: web.Request) -> web.Response:
    """`/quality/`: how good decisions were, by the labels that have come."""
    result = await request.app[WORKER].quality()
    if wants_json(request):
        return json_reply(result)
    tables = {
        "Day": dict(reversed(result["by_day"].items())),
        "Model": result["by_model"],
        "All": {"": result["total"]},
    }
    return page("quality.html", result=result, tables=tables)


def explained(features: Mapping[str, float | None], catalogue: Catalogue) -> list[dict[str, Any]]:
    """Stored features with what the catalogue says of them; of an older catalogue's, the name alone."""
    known = {feature.name: feature for feature in catalogue.columns}
    return [
        {
            "name": name,
            "value": value,
            "unit": known[name].unit if name in known else "",
            "formula": known[name].formula if name in known else "",
        }
        for name, value in in_order(features, catalogue.names)
    ]


def further_fields(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the input said beyond our fields, as text."""
    return [
        (name, value if isinstance(value, str) else orjson.dumps(value).decode())
        for name, value in (row.get("extra") or {}).items()
    ]


def _requested_id(request: web.Request, kind: str) -> str:
    return requested_id(kind, request.rel_url.raw_path, request.rel_url.raw_query_string)


async def index(request: web.Request) -> web.Response:
    """`/`: everything that this worker tells, and where to look further."""
    worker = request.app[WORKER]
    overview = await describe(worker)
    if wants_json(request):
        return json_reply(overview)
    return page("index.html", now=pages.now_text(time.time()), **overview)


async def describe(worker: Worker) -> dict[str, Any]:
    """The index page as plain values."""
    reading = await worker.reading()
    settings, latency = worker.settings, reading.latency
    held: dict[int, dict[str, Any]] = {}
    for one in reading.partitions:
        held.setdefault(one.partition, {"partition": one.partition, "stages": {}})
        held[one.partition]["stages"][one.stage] = {
            "records_done": one.records_done,
            "lag": one.lag,
            "records_waiting": one.records_waiting,
            "blocks_in_flight": one.blocks_in_flight,
            "event_time_ms": one.event_time_ms,
            "event_time": iso(one.event_time_ms),
            "held_ms": one.held_ms,
            "ahead_ms": one.ahead_ms,
            "waits_for_schema": one.needs,
            "lost": one.lost,
            "open_since": one.open_since,
            "open_offsets": one.open_offsets,
            "open_seconds": round(one.open_seconds, 1),
            "waits_for": one.waits_for,
            "stalled": one.stalled,
        }
    for (table, partition), size in reading.state_bytes.items():
        if partition in held:
            held[partition].setdefault("state_bytes", {})[table] = size
    stages: dict[str, dict[str, Any]] = {
        stage: {"records": records, "outcomes": {}, "units": {}, "lag": reading.lag(stage)}
        for stage, records in reading.records.items()
    }
    for (stage, outcome), count in sorted(reading.outcomes.items(), key=_by_outcome):
        stages[stage]["outcomes"][outcome] = count
        unit = "labels" if is_of_labels(stage, outcome) else "transactions"
        stages[stage]["units"].setdefault(unit, {})[outcome] = count
    return {
        "worker": worker.url,
        "deployment": worker.deployment,
        "release": release(),
        "up": age(reading.started_at, time.time()),
        "ready": not reading.reasons,
        "reasons": reading.reasons,
        "waits": reading.waits,
        "parked_labels": {
            str(one.partition): {
                "labels": one.labels,
                "oldest": iso(one.oldest_ms),
                "transaction_id": one.oldest_id,
            }
            for one in reading.parked
        },
        "kafka_answers": reading.kafka_answers,
        "sink": {
            "rows": reading.sink.rows,
            "refund_rows": reading.refunds.rows,
            "alert_rows": reading.alerts.rows,
            "waiting": reading.sink.reason or reading.refunds.reason or reading.alerts.reason,
        },
        "model": None if reading.model is None else dict(zip(("version", "hash"), reading.model)),  # noqa: B905
        "features": worker.catalogue.schema,
        "windows": [format_duration(window) for window in settings.windows],
        "currency": settings.currency,
        "timezone": settings.timezone,
        "latency_ms": {f"p{q}": latency.quantile(q / 100) for q in (50, 95, 99)},
        "stages": stages,
        "partitions": [held[partition] for partition in sorted(held)],
        "workers": {url: sorted(partitions) for url, partitions in sorted(worker.owners().items())},
    }


def _by_outcome(item: tuple[tuple[str, str], int]) -> tuple[int, str]:
    outcome = item[0][1]
    return (_OUTCOMES.index(outcome) if outcome in _OUTCOMES else len(_OUTCOMES), outcome)


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
    response = web.Response(text=pages.style(), content_type="text/css", charset="utf-8")
    response.headers["Cache-Control"] = f"public, max-age={_STYLE_SECONDS}"
    return response


_KEYS = (("card", card), ("terminal", terminal), ("transaction", transaction))
#: Every page; tables of other modules come behind.
PAGES: tuple[Page, ...] = (
    Page("GET", "/", index, Role.VIEWER),
    Page("GET", "/index.json", index, Role.VIEWER),
    *(
        Page("GET", f"/{kind}s{rest}", handler, Role.ANALYST)
        for kind, handler in _KEYS
        for rest in ("", r"/{id:[\s\S]*}")  # an id may hold a newline
    ),
    *(Page("GET", f"/quality{rest}", quality, Role.VIEWER) for rest in ("", "/", ".json")),
    Page("GET", "/metrics", prometheus, Role.VIEWER),
    Page("GET", "/health/live", live, Role.PUBLIC, any_host=True),
    Page("GET", "/health/ready", ready, Role.PUBLIC, any_host=True),
    Page("GET", "/style.css", style_sheet, Role.PUBLIC),
    *ALERT_PAGES,
    *LOGIN_PAGES,
)
