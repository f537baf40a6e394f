"""`/`: the dashboard. `/live` tells its page once a second what is new; without scripts the page is as it was read."""

import asyncio
import time
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from app.display import age, iso
from app.durations import format_duration
from app.metrics.prometheus import release
from app.metrics.worker_reading import is_of_labels
from app.web import page_templates
from app.web.dashboard_data import LIVE, REFRESH_SECONDS, DashboardData
from app.web.replies import RefusedError, json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route, who
from app.web.security_headers import HEADERS
from app.web.worker_protocol import WORKER, Worker

#: A stream of events ends after this time, and the browser asks again: then its login is checked again, too.
_STREAM_SECONDS = 25.0
_RECONNECT_MS = 300
#: Streams of a worker; a page beyond that is as it was read, and asks again after some seconds.
_MOST_STREAMS, _FULL_SECONDS = 50, 10
STREAMS = web.AppKey("streams", set[object])
#: The parts of the page that change.
_PARTS = ("figures", "waits", "alerts", "partitions")
#: The order in which people think of outcomes; any other comes behind.
_OUTCOMES = (
    "enriched", "scored", "late", "conflicting", "duplicate", "refund", "dead", "moved", "replayed",
)  # fmt: skip


async def index(request: web.Request) -> web.Response:
    """`/`: the dashboard of the deployment, and everything that this worker tells."""
    worker = request.app[WORKER]
    may_see_cards = who(request).may("analyst")
    overview = await describe(worker, may_see_cards=may_see_cards)
    if wants_json(request):
        return json_reply(overview)
    live = request.app[LIVE]
    await live.refresh()
    return page(
        "dashboard.html",
        scripts=True,
        now=page_templates.now_text(time.time()),
        board=live.board(may_see_cards=may_see_cards),
        **overview,
    )


async def describe(worker: Worker, *, may_see_cards: bool) -> dict[str, Any]:
    """The index page as plain values; `may_see_cards`: with the transactions that parked labels wait for."""
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
                **({"transaction_id": one.oldest_id} if may_see_cards else {}),
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


async def snapshot(request: web.Request) -> web.Response:
    """`/live.json`: what this worker tells the others for their dashboards."""
    since = request.query.get("since", "0")
    own = await request.app[LIVE].own(float(since) if since.isdecimal() else 0.0)
    if not who(request).may("analyst"):
        own["alerts"] = []
    return json_reply(own)


async def stream(request: web.Request) -> web.StreamResponse:
    """`/live`: server-sent events for the dashboard, one a second."""
    headers = {**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"}
    headers["X-Accel-Buffering"] = "no"  # a proxy that collects events would show none
    if request.method == "HEAD":
        return web.Response(headers=headers)
    live, worker = request.app[LIVE], request.app[WORKER]
    streams = request.app[STREAMS]
    if len(streams) >= _MOST_STREAMS:
        msg = f"{_MOST_STREAMS} dashboards are connected to this worker already: reload later, or use another worker"
        raise RefusedError(503, msg, retry_after=_FULL_SECONDS)
    told = request.headers.get("Last-Event-ID", "")
    since = int(told) if told.isdecimal() else 0
    may_see_cards = who(request).may("analyst")
    response = web.StreamResponse(headers=headers)
    streams.add(response)
    try:
        await response.prepare(request)
        await response.write(b"retry: %d\n\n" % _RECONNECT_MS)
        before: dict[str, str] = {}
        tick = -1
        ends = time.monotonic() + _STREAM_SECONDS
        while time.monotonic() < ends and not worker.stopping:
            await live.refresh()
            if live.tick != tick:
                key = (may_see_cards, since, tick)
                make = partial(_frame, live, may_see_cards, since, before)
                frame, before, since = live.shared(key, make)
                tick = live.tick
                await response.write(frame)
            await asyncio.sleep(REFRESH_SECONDS)
    except ConnectionError:  # the page was closed
        pass
    finally:
        streams.discard(response)
    return response


def _frame(
    live: DashboardData, may_see_cards: bool, since: int, before: dict[str, str]
) -> tuple[bytes, dict[str, str], int]:
    """One event: the parts that have changed, and new points; with all parts, and the newest point's moment."""
    html = live.shared(may_see_cards, partial(_parts, live, may_see_cards))
    points = live.points(since)
    newest = since if not points or points[-1][0] is None else int(points[-1][0])
    said = {
        "html": {part: text for part, text in html.items() if before.get(part) != text},
        "points": points,
    }
    return b"id: %d\ndata: %b\n\n" % (newest, orjson.dumps(said)), html, newest


def _parts(live: DashboardData, may_see_cards: bool) -> dict[str, str]:
    board = live.board(may_see_cards=may_see_cards, since=float("inf"))
    return {part: page_templates.render(f"dashboard_{part}.html", board=board) for part in _PARTS}


PAGES = (
    Route("GET", "/", index, Role.VIEWER),
    Route("GET", "/index.json", index, Role.VIEWER),
    Route("GET", "/live", stream, Role.VIEWER),
    Route("GET", "/live.json", snapshot, Role.VIEWER),
)
