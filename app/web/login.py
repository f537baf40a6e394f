"""Logging in and out."""

import secrets
from urllib.parse import urlsplit

from aiohttp import web

from app.web.guard import GUARD
from app.web.replies import RefusedError, page
from app.web.roles import Role, Viewer, viewer
from app.web.routes import Page, audited


async def form(request: web.Request) -> web.Response:
    """`/login`: the form."""
    return _form(request, 200, "")


def _form(request: web.Request, status: int, line: str) -> web.Response:
    guard = request.app[GUARD]
    nonce = secrets.token_hex(16)
    token = viewer.set(Viewer(csrf=guard.login_token(nonce)))
    try:
        response = page("login.html", status, line=line, next=_local(request.query.get("next", "")))
    finally:
        viewer.reset(token)
    guard.set_cookie(response, guard.login_cookie, nonce)
    return response


async def log_in(request: web.Request) -> web.Response:
    """Begin a session, and go on to the page that was asked for."""
    guard = request.app[GUARD]
    sent = await request.post()
    name = str(sent.get("name", ""))[:256]
    audited(request, user=name)
    try:
        cookie = await guard.log_in(request, name, str(sent.get("password", ""))[:1024])
    except RefusedError as error:
        if error.status != 401:
            raise
        return _form(request, 401, str(error))
    response = web.Response(status=303, headers={"Location": _local(str(sent.get("next", "")))})
    guard.set_cookie(response, guard.cookie, cookie)
    response.del_cookie(guard.login_cookie, path="/", secure=guard.cookie.startswith("__Host-"))
    return response


async def log_out(request: web.Request) -> web.Response:
    """End the session of this browser."""
    guard = request.app[GUARD]
    response = web.Response(status=303, headers={"Location": "/login"})
    response.del_cookie(guard.cookie, path="/", secure=guard.cookie.startswith("__Host-"))
    return response


def _local(target: str) -> str:
    """A path of ours: a link to the form must lead nowhere else afterwards."""
    parts = urlsplit(target)
    ours = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc
    return target if ours and target.isprintable() and "\\" not in target else "/"


PAGES = (
    Page("GET", "/login", form, Role.PUBLIC),
    Page("POST", "/login", log_in, Role.PUBLIC),
    Page("POST", "/logout", log_out, Role.VIEWER),
)
