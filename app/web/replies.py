"""What goes back over HTTP: JSON or a page, errors included."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from app.errors import FraudstreamError, NotFoundError, SchemaError, UnavailableError, UsageError
from app.web.page_templates import render
from app.web.security_headers import HEADERS, SCRIPTS
from app.web.url_ids import JSON_SUFFIX

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Seconds after which asking again makes sense while partitions move or recover.
RETRY_AFTER_SECONDS = 2


class RefusedError(FraudstreamError):
    """A request that is not answered as it is; the text says why.

    Attributes:
        status: of HTTP.
        retry_after: seconds, where asking again helps.
    """

    def __init__(self, status: int, line: str, *, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.retry_after = retry_after


def wants_json(request: web.Request) -> bool:
    """By suffix (`/cards/ID.json`), or by an `Accept` that names JSON and not HTML."""
    path = request.rel_url.raw_path
    accept = request.headers.get("Accept", "")
    return path.endswith(JSON_SUFFIX) or (
        "application/json" in accept and "text/html" not in accept
    )


def json_reply(data: Any, status: int = 200) -> web.Response:
    """Indented JSON with a newline at its end: people read it too."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def page(
    template: str, status: int = 200, *, scripts: bool = False, **context: Any
) -> web.Response:
    """An HTML page; one with `scripts` may run those of `static/`, no other."""
    response = web.Response(
        text=render(template, **context), status=status, content_type="text/html", charset="utf-8"
    )
    if scripts:
        policy = "Content-Security-Policy"
        response.headers[policy] = HEADERS[policy] + SCRIPTS
    return response


def error_reply(request: web.Request, status: int, line: str) -> web.Response:
    """One line that says what happened, as JSON or as a page."""
    if wants_json(request):
        response = json_reply({"error": line}, status)
    else:
        response = page("error.html", status, code=status, line=line)
    if status == web.HTTPServiceUnavailable.status_code:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def status_of(error: FraudstreamError) -> int:
    """The HTTP status of our own errors."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, UsageError):
        return 400
    # a missing table is mended by a command, and asking again then works
    return 503 if isinstance(error, (UnavailableError, SchemaError)) else 500


@web.middleware
async def present_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors become one line, never a traceback; every answer gets `security_headers`."""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except FraudstreamError as error:
        response = error_reply(request, status_of(error), str(error))
        if isinstance(error, RefusedError):
            if error.retry_after is not None:
                response.headers["Retry-After"] = str(error.retry_after)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
    except web.HTTPRedirection as error:
        response = web.Response(
            status=error.status, headers={"Location": error.headers["Location"]}
        )
    except web.HTTPException as error:
        line = f"nothing at {request.path}" if error.status == 404 else error.reason
        response = error_reply(request, error.status, line)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except Exception:
        # not the path: ids of cards are in it
        resource = request.match_info.route.resource
        logger.exception("a web page failed: %s", resource.canonical if resource else "unknown")
        response = error_reply(request, 500, "this page failed; see the worker's log")
    for name, text in HEADERS.items():
        response.headers.setdefault(name, text)
    return response
