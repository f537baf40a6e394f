"""The table of all pages, and their place on the web server of a worker."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from app.metrics.prometheus import WorkerMetrics
from app.web import worker_requests
from app.web.access.checks import ACCESS, AccessChecks
from app.web.alerts_page import PAGES as ALERT_PAGES
from app.web.dashboard_data import LIVE, DashboardData
from app.web.dashboard_page import PAGES as DASHBOARD_PAGES
from app.web.dashboard_page import STREAMS
from app.web.dead_letters_page import PAGES as DEAD_LETTER_PAGES
from app.web.forwarding import SERVED_BY_HEADER
from app.web.key_page import PAGES as KEY_PAGES
from app.web.login_page import PAGES as LOGIN_PAGES
from app.web.models_page import PAGES as MODEL_PAGES
from app.web.post_label import PAGES as LABEL_PAGES
from app.web.quality_page import PAGES as QUALITY_PAGES
from app.web.readiness import PAGES as HEALTH_PAGES
from app.web.replies import present_errors
from app.web.review_page import PAGES as REVIEW_PAGES
from app.web.review_page import REVIEWS
from app.web.review_queue import ReviewQueue
from app.web.roles import Role
from app.web.routes import Route
from app.web.search_page import PAGES as SEARCH_PAGES
from app.web.static_files import PAGES as STATIC_FILES
from app.web.transaction_page import PAGES as TRANSACTION_PAGES
from app.web.worker_protocol import WORKER, Worker

METRICS = web.AppKey("metrics", WorkerMetrics)
#: Lets a command see that the worker it found belongs to its own deployment.
DEPLOYMENT_HEADER = "X-Fraudstream-Deployment"


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
        header = request.headers.get(worker_requests.PEER_HEADER)
        if header and access.peers and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes) else b""
            kind = response.headers.get("Content-Type", "")
            response.headers[worker_requests.PROOF_HEADER] = worker_requests.prove(
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


#: Every page.
PAGES: tuple[Route, ...] = (
    *KEY_PAGES,
    *TRANSACTION_PAGES,
    *QUALITY_PAGES,
    Route("GET", "/metrics", prometheus, Role.VIEWER),
    *HEALTH_PAGES,
    *STATIC_FILES,
    *ALERT_PAGES,
    *DASHBOARD_PAGES,
    *DEAD_LETTER_PAGES,
    *LABEL_PAGES,
    *MODEL_PAGES,
    *SEARCH_PAGES,
    *REVIEW_PAGES,
    *LOGIN_PAGES,
)
