"""The bodies of requests: how many bytes they may have, and how long they may take to arrive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from app.web.replies import RefusedError

#: A client that sends byte by byte would keep a connection and memory for as long as it likes.
_SECONDS = 10.0
#: aiohttp reads no more.
MOST_BYTES = 1 << 20


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Around the reading of a body.

    Raises:
        RefusedError: it did not arrive in time.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            yield
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {_SECONDS:g} s") from None


async def read_body(request: web.Request, most: int = MOST_BYTES) -> bytes:
    """The body of a request.

    Args:
        request: not read yet.
        most: bytes that it may have, at most `MOST_BYTES`.

    Raises:
        RefusedError: it has more, or did not arrive in time.
    """
    try:
        if (request.content_length or 0) <= most:
            if request.content.is_eof():  # it is here already, as nearly all are
                body = await request.read()
            else:
                async with in_time():
                    body = await request.read()
            if len(body) <= most:
                return body
    except web.HTTPRequestEntityTooLarge:  # it did not say how long it is
        pass
    raise RefusedError(413, f"a request has at most {most} bytes")
