"""What another worker answers, to a request that came to this one or to one of our own."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import orjson
from aiohttp import web

from app.errors import FraudstreamError, UnavailableError
from app.web import worker_requests
from app.web.access.checks import ACCESS, AccessChecks
from app.web.roles import Viewer
from app.web.routes import who
from app.web.worker_protocol import WORKER, Worker
from app.web.worker_requests import PeerAnswer

SERVED_BY_HEADER = "X-Fraudstream-Served-By"
_FORWARDED_HEADERS = ("Accept", "Accept-Language", "User-Agent")


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
    headers = {
        name: request.headers[name]
        for name in (*_FORWARDED_HEADERS, *further_headers)
        if name in request.headers
    }
    path = request.rel_url.raw_path_qs
    answer = await ask(
        request.app[ACCESS], worker, who(request), url, path, request.method, headers, body
    )
    served_by = {
        "Content-Type": answer.content_type,
        SERVED_BY_HEADER: worker_requests.origin_of(url),
    }
    return web.Response(status=answer.status, body=answer.body, headers=served_by)


async def ask_for_json(request: web.Request, url: str, path: str) -> PeerAnswer:
    """Another worker's answer to a question of our own, for whoever asked us.

    Raises:
        UnavailableError: as `ask`.
    """
    headers = {"Accept": "application/json"}
    return await ask(
        request.app[ACCESS], request.app[WORKER], who(request), url, path, "GET", headers
    )


async def said_within(seconds: float, asking: Awaitable[PeerAnswer]) -> dict[str, Any] | str:
    """The JSON object that another worker answers with, or one sentence: why there is none."""
    try:
        async with asyncio.timeout(seconds):
            answer = await asking
        if answer.status != 200:
            return f"it answers with status {answer.status}"
        said: dict[str, Any] = orjson.loads(answer.body)
        return said
    except FraudstreamError as error:
        return str(error)
    except (TimeoutError, ValueError):
        return f"no answer within {seconds:g} s"


async def ask(
    access: AccessChecks,
    worker: Worker,
    asker: Viewer,
    url: str,
    path: str,
    method: str,
    headers: dict[str, str],
    body: bytes | None = None,
) -> PeerAnswer:
    """What another worker answers, signed where the deployment has a secret.

    Raises:
        UnavailableError: it does not answer, or is none of this deployment.
    """
    target = worker_requests.origin_of(url)
    headers = {**headers, worker_requests.ROUTED_HEADER: worker.url}
    if access.peers is None:
        if not access.open:
            msg = f"another worker owns it ({target}): workers can query each other only with FRAUDSTREAM_WEB_SECRET"
            raise UnavailableError(msg)
        return await worker.forward(target + path, method, headers, body)
    signed = worker_requests.ask(
        access.peers, asker, target, method, path, body or b"", time.time()
    )
    headers[worker_requests.PEER_HEADER] = signed
    answer = await worker.forward(target + path, method, headers, body)
    return worker_requests.checked(access.peers, signed, answer, target)
