"""Logging in and out."""

import secrets
from urllib.parse import urlsplit

from aiohttp import web

from app.web.access.checks import ACCESS
from app.web.replies import RefusedError, page
from app.web.roles import Role, Viewer, viewer
from app.web.routes import Route, audited


async def form(request: web.Request) -> web.Response:
    """`/login`: the form."""
    return _form(request, 200, "")


def _form(request: web.Request, status: int, line: str) -> web.Response:
    access = request.app[ACCESS]
    nonce = secrets.token_hex(16)
    token = viewer.set(Viewer(csrf=access.csrf.login_token(nonce)))
    try:
        response = page("login.html", status, line=line, next=_local(request.query.get("next", "")))
    finally:
        viewer.reset(token)
    access.cookies.set(response, access.cookies.login, nonce)
    return response


async def log_in(request: web.Request) -> web.Response:
    """Begin a session, and go on to the page that was asked for."""
    access = request.app[ACCESS]
    sent = await request.post()
    name = str(sent.get("name", ""))[:256]
    audited(request, user=name)
    try:
        cookie = await access.log_in(request, name, str(sent.get("password", ""))[:1024])
    except RefusedError as error:
        if error.status != 401:
            raise
        return _form(request, 401, str(error))
    response = web.Response(status=303, headers={"Location": _local(str(sent.get("next", "")))})
    access.cookies.set(response, access.cookies.session, cookie)
    access.cookies.delete(response, access.cookies.login)
    return response


async def log_out(request: web.Request) -> web.Response:
    """End the session of this browser."""
    access = request.app[ACCESS]
    response = web.Response(status=303, headers={"Location": "/login"})
    access.cookies.delete(response, access.cookies.session)
    return response


def _local(target: str) -> str:
    """A path of ours: a link to the form must lead nowhere else afterwards."""
    parts = urlsplit(target)
    ours = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc
    return target if ours and target.isprintable() and "\\" not in target else "/"


PAGES = (
    Route("GET", "/login", form, Role.PUBLIC),
    Route("POST", "/login", log_in, Role.PUBLIC),
    Route("POST", "/logout", log_out, Role.VIEWER),
)
