"""Logging in and out."""

import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from app.web.access.audit import record
from app.web.access.checks import ACCESS
from app.web.replies import RefusedError, page
from app.web.roles import NOBODY, Role, Viewer, viewer
from app.web.routes import Route, audited

if TYPE_CHECKING:
    from app.web.access.oidc import Oidc, Pending


async def form(request: web.Request) -> web.Response:
    """`/login`: the form."""
    return _form(request, 200, "")


def _form(request: web.Request, status: int, line: str, after: str | None = None) -> web.Response:
    access = request.app[ACCESS]
    nonce = secrets.token_hex(16)
    token = viewer.set(Viewer(csrf=access.csrf.login_token(nonce)))
    try:
        response = page(
            "login.html",
            status,
            line=line,
            next=_local(request.query.get("next", "") if after is None else after),
            password=bool(access.logins) or access.oidc is None,
            provider=access.oidc is not None,
        )
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
    access.cookies.remember(response, name)
    access.cookies.delete(response, access.cookies.login)
    return response


async def to_provider(request: web.Request) -> web.Response:
    """`/login/oidc`: on to the identity provider."""
    access, oidc = request.app[ACCESS], _oidc(request)
    access.logins.require_encryption(request)
    access.logins.take(request)
    after = _local(request.query.get("next", ""))
    again = access.cookies.again in request.cookies
    where, cookie = await oidc.begin(_callback(request), after, again=again)
    response = web.Response(status=303, headers={"Location": where})
    access.cookies.set(response, access.cookies.oidc, cookie)
    return response


async def from_provider(request: web.Request) -> web.Response:
    """`/login/callback`: back from it; begin a session."""
    access, oidc = request.app[ACCESS], _oidc(request)
    access.logins.require_encryption(request)
    access.logins.take(request)
    try:
        pending = oidc.pending(
            request.cookies.get(access.cookies.oidc, ""), request.query.get("state", "")
        )
    except RefusedError as error:
        record(request, NOBODY, _BACK, error.status)
        raise
    try:
        response = await _session(request, oidc, pending)
    except RefusedError as error:
        audited(request, why=str(error))
        record(request, NOBODY, _BACK, error.status)
        response = _form(request, error.status, str(error), pending.next)
        if error.retry_after:
            response.headers["Retry-After"] = str(error.retry_after)
    access.cookies.delete(response, access.cookies.oidc)
    return response


async def _session(request: web.Request, oidc: "Oidc", pending: "Pending") -> web.Response:
    access, asked = request.app[ACCESS], request.query
    if "code" not in asked:
        why = asked.get("error", "no code")[:60]
        raise RefusedError(403, f"the identity provider refuses this login ({why}): log in again")
    name, role = await oidc.finish(pending, asked["code"], _callback(request))
    access.logins.refuse_namesake(name)
    record(request, Viewer(name, role), _BACK, 303)
    response = web.Response(status=303, headers={"Location": _local(pending.next)})
    access.cookies.set(
        response, access.cookies.session, access.cookies.begin(name, oidc.stamp(role))
    )
    access.cookies.delete(response, access.cookies.again)
    return response


def _oidc(request: web.Request) -> "Oidc":
    oidc = request.app[ACCESS].oidc
    if oidc is None:
        raise RefusedError(404, "no identity provider is set: FRAUDSTREAM_WEB_OIDC_ISSUER")
    return oidc


def _callback(request: web.Request) -> str:
    """Where the provider sends the browser back: the name that it has asked for, which has been checked."""
    secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    return f"{'https' if secure else 'http'}://{request.host}{_BACK.path}"


async def log_out(request: web.Request) -> web.Response:
    """End the session of this browser."""
    access = request.app[ACCESS]
    response = web.Response(status=303, headers={"Location": "/login"})
    access.cookies.delete(response, access.cookies.session)
    if access.oidc is not None:  # it would log in the same person at once, whoever sits there now
        access.cookies.set(response, access.cookies.again, "1")
    return response


def _local(target: str) -> str:
    """A path of ours: a link to the form must lead nowhere else afterwards."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    ours = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc
    return target if ours and target.isprintable() and "\\" not in target else "/"


_BACK = Route("GET", "/login/callback", from_provider, Role.PUBLIC)
PAGES = (
    Route("GET", "/login", form, Role.PUBLIC),
    Route("GET", "/login/oidc", to_provider, Role.PUBLIC),
    _BACK,
    Route("POST", "/login", log_in, Role.PUBLIC),
    Route("POST", "/logout", log_out, Role.VIEWER),
)
