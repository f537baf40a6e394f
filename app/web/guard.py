"""Stands before every page: host, limits, login, role, CSRF, audit. Pages see only who asks.

| what | why |
|---|---|
| Host | a name that an attacker points at our address makes a browser take our pages for theirs (DNS rebinding) |
| limits | of requests per asker, of bytes, of seconds |
| login | bearer token, session cookie, or another worker that vouches; open on loopback, unless a setting forbids |
| CSRF | a page elsewhere may send a form to us with the visitor's cookie: it cannot know the token |
| audit | a line of JSON for each change: who, from where, what, and how it ended |
"""

import asyncio
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute

from app.addresses import is_loopback
from app.errors import SettingsError, UnavailableError
from app.settings import Settings
from app.web import peers
from app.web.access.rate_limits import Limit
from app.web.access.sessions import Session, Signer
from app.web.access.users import User, Users
from app.web.replies import RefusedError, wants_json
from app.web.roles import CSRF_FIELD, CSRF_HEADER, NOBODY, Role, Viewer, viewer
from app.web.routes import Handler, Page, audit_details

logger = logging.getLogger("fraudstream.web")
audit_log = logging.getLogger("fraudstream.audit")
audit_log.setLevel(logging.INFO)  # whatever the worker's log level: the record of changes is kept

_SECONDS = 30.0
_MOST_BODY_BYTES = 64 << 10
#: Requests of one asker: a person's browser, a dashboard.
_BURST, _PER_SECOND = 100, 20.0
#: Logins as one user, and from one address: some typing errors, no dictionary.
_NAME_BURST, _NAME_PER_SECOND = 10, 1 / 12
_ADDRESS_BURST, _ADDRESS_PER_SECOND = 60, 1.0  # of a proxy, it may be everybody's
#: Passwords that are verified at once: each takes 64 MiB.
_HASHES = 2
_LOCAL = Viewer("local", Role.OPERATOR)


class Guard:
    """What all requests pass.

    Args:
        settings: of the deployment.
        own_url: where this worker answers.
        pages: the page of each route.
        now: epoch seconds.
        clock: seconds that never go back.

    Raises:
        SettingsError: the file of users cannot be used.

    Attributes:
        open: whether no login is needed.
        peers: signs requests between workers; None where nobody could tell them from others.
    """

    def __init__(
        self,
        settings: Settings,
        own_url: str,
        pages: Mapping[AbstractRoute, Page],
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        login = settings.web_login
        self.open = login == "never" or (
            login == "beyond-loopback" and is_loopback(settings.web_host)
        )
        self._settings, self._own_url, self._pages, self._now = settings, own_url, pages, now
        self._users = Users(settings.web_users)
        secret = settings.web_secret
        raw = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)
        self.peers = Signer(raw, "peers") if secret else None
        self._cookies, self._csrf = Signer(raw, "cookies"), Signer(raw, "csrf")
        self._requests = Limit(_BURST, _PER_SECOND, clock)
        self._names = Limit(_NAME_BURST, _NAME_PER_SECOND, clock)
        self._addresses = Limit(_ADDRESS_BURST, _ADDRESS_PER_SECOND, clock)
        self._hashes = asyncio.Semaphore(_HASHES)
        self._public = {"/metrics"} if settings.web_open_metrics else set()
        named = (settings.web_host, settings.advertised_host, urlsplit(own_url).hostname)
        further = settings.web_hosts.split(",")
        self._hosts = {name.strip().lower() for name in (*named, *further) if name} - {""}
        if not self.open and not self._users:
            logger.warning(
                "nobody can log in to the web pages: name a file in FRAUDSTREAM_WEB_USERS, see `fraudstream users`"
            )

    @property
    def middleware(self) -> Any:
        """For `web.Application.middlewares`."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            page = self._pages.get(request.match_info.route)
            if page is not None and not page.own_login:
                return await self._pass(request, page)
            if page is None and request.match_info.http_exception is None:
                raise RefusedError(404, "this page is in no table of pages")  # it names no role
            return await handler(request)

        return guard

    async def _pass(self, request: web.Request, page: Page) -> web.StreamResponse:
        if not page.any_host:
            self._check_host(request)
        asker = self._asker(request)
        if not self.open and not page.any_host:
            wait = self._requests.take(asker.name or str(request.remote))
            if wait:
                raise RefusedError(429, "too many requests: wait", retry_after=math.ceil(wait))
        if asker.role < page.role and page.path not in self._public:
            self._refuse(request, asker, page)
        if page.method != "POST":
            return await self._answer(request, page, asker)
        outcome = 500
        try:
            self._check_author(request, asker, page)
            await self._check_form(request, asker)
            response = await self._answer(request, page, asker)
            outcome = response.status
        except RefusedError as error:
            outcome = error.status
            raise
        except web.HTTPException as error:
            outcome = error.status
            raise
        finally:
            self._record(request, asker, page, outcome)
        return response

    async def _answer(self, request: web.Request, page: Page, asker: Viewer) -> web.StreamResponse:
        token = viewer.set(asker)
        try:
            async with asyncio.timeout(_SECONDS):
                response = await page.handler(request)
        except TimeoutError:
            msg = f"this page took more than {_SECONDS:g} s; try again"
            raise UnavailableError(msg) from None
        finally:
            viewer.reset(token)
        return response

    # ------------------------------------------------------------------ who asks

    def _asker(self, request: web.Request) -> Viewer:
        if header := request.headers.get(peers.PEER_HEADER):
            return self._vouched(request, header)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._by_token(request, token.strip())
        session = Session.read(request.cookies.get(self.cookie, ""), self._cookies, self._now())
        user = self._known(session) if session else None
        if session and user:
            return Viewer(user.name, user.role, self._csrf.sign(session.nonce), session=True)
        if self.open:
            return Viewer(_LOCAL.name, _LOCAL.role, self._csrf.sign("local"))
        return NOBODY

    def _vouched(self, request: web.Request, header: str) -> Viewer:
        path = request.rel_url.raw_path_qs
        found = self.peers and peers.asker_of(
            self.peers, header, self._own_url, request.method, path, self._now()
        )
        if not found:
            raise RefusedError(401, "this request is not from a worker of this deployment")
        return found

    def is_from_worker(self, request: web.Request) -> bool:
        """Whether another worker of this deployment asks."""
        return self._vouched(request, request.headers.get(peers.PEER_HEADER, "")) is not None

    def _by_token(self, request: web.Request, token: str) -> Viewer:
        self._require_encryption(request)
        self._renew()
        user = self._users.by_token(token)
        if user is None:
            if wait := self._addresses.take(str(request.remote)):
                raise RefusedError(429, "too many wrong tokens: wait", retry_after=math.ceil(wait))
            raise RefusedError(401, "no such token")
        return Viewer(user.name, user.role)

    def _known(self, session: Session) -> User | None:
        self._renew()
        user = self._users.get(session.name)
        return user if user is not None and user.stamp == session.stamp else None

    def _renew(self) -> None:
        try:
            self._users.renew()
        except SettingsError as error:
            logger.error("users of the web pages stay as they were: %s", error)

    def _refuse(self, request: web.Request, asker: Viewer, page: Page) -> NoReturn:
        if asker.role is not Role.PUBLIC:
            raise RefusedError(
                403, f"this needs the role {page.role.title}; {asker.name} is {asker.role.title}"
            )
        if not self._users:
            raise RefusedError(
                401, "nobody can log in yet: the operator names a file in FRAUDSTREAM_WEB_USERS"
            )
        if wants_json(request) or page.method == "POST" or not _is_browser(request):
            raise RefusedError(401, "log in, or send a token: Authorization: Bearer TOKEN")
        raise web.HTTPSeeOther(f"/login?next={quote(request.rel_url.raw_path_qs, safe='')}")

    # ------------------------------------------------------------------ what is refused to anybody

    def _check_host(self, request: web.Request) -> None:
        host = _host_of(request.headers.get("Host", ""))
        if not self._is_ours(host):
            raise RefusedError(
                421,
                f"{host!r} is not a name of this worker: the operator adds names to FRAUDSTREAM_WEB_HOSTS",
            )

    def _is_ours(self, host: str) -> bool:
        try:
            ip_address(host)  # nobody can make an address their own by DNS
        except ValueError:
            return host in self._hosts or is_loopback(host)
        return True

    def _require_encryption(self, request: web.Request) -> None:
        """Credentials beyond loopback need TLS, by a proxy that says so."""
        if self._settings.allow_unencrypted_credentials or is_loopback(str(request.remote)):
            return
        if request.headers.get("X-Forwarded-Proto") != "https":
            raise RefusedError(
                403,
                "passwords and tokens are accepted over https only: put a proxy with TLS before the workers, or set "
                "FRAUDSTREAM_ALLOW_UNENCRYPTED_CREDENTIALS=true",
            )

    def _check_author(self, request: web.Request, asker: Viewer, page: Page) -> None:
        """A change has an author: where anybody is let in, only whoever sits at this machine is known."""
        anybody = self.open and asker.name == _LOCAL.name and not asker.session
        if anybody and page.role > Role.PUBLIC and not is_loopback(str(request.remote)):
            raise RefusedError(
                403,
                "changes from other machines need a login: set FRAUDSTREAM_WEB_USERS and FRAUDSTREAM_WEB_LOGIN",
            )

    async def _check_form(self, request: web.Request, asker: Viewer) -> None:
        if (request.content_length or 0) > _MOST_BODY_BYTES:
            raise RefusedError(413, f"a request has at most {_MOST_BODY_BYTES} bytes")
        if not asker.csrf and asker is not NOBODY:
            return  # a token or another worker asks: no browser sends these by itself
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_ours(_host_of(urlsplit(origin).netloc)):
            raise RefusedError(403, "this form was sent by a page of another site")
        sent = request.headers.get(CSRF_HEADER)
        if sent is None:
            sent = str((await request.post()).get(CSRF_FIELD, ""))
        wanted = asker.csrf or self.login_token(request.cookies.get(self.login_cookie, ""))
        if not wanted or not secrets.compare_digest(sent.encode(), wanted.encode()):
            raise RefusedError(
                403, "this form is too old, or not ours: go back, load the page again, and repeat"
            )

    # ------------------------------------------------------------------ sessions

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; with this prefix browsers accept it over https only, for this host only."""
        return "fraudstream" if self._plain else "__Host-fraudstream"

    @property
    def login_cookie(self) -> str:
        """Name of the cookie that ties a form for logging in to the browser that asked for it."""
        return f"{self.cookie}-login"

    @property
    def _plain(self) -> bool:
        return self._settings.allow_unencrypted_credentials or is_loopback(self._settings.web_host)

    def login_token(self, nonce: str) -> str:
        """The CSRF token of a form for logging in."""
        return self._csrf.sign("login", nonce) if nonce else ""

    async def log_in(self, request: web.Request, name: str, password: str) -> str:
        """The session cookie's value.

        Raises:
            RefusedError: wrong, too often, or over a connection that others can read.
        """
        self._require_encryption(request)
        wait = self._addresses.take(str(request.remote)) or self._names.take(name)
        if wait:
            raise RefusedError(429, "too many logins: wait", retry_after=math.ceil(wait))
        self._renew()
        async with self._hashes:
            user = await asyncio.to_thread(self._users.by_password, name, password)
        if user is None:
            raise RefusedError(401, "wrong name or password")
        until = int(self._now()) + self._settings.web_session // 1000
        return Session.begin(user.name, user.stamp, until).write(self._cookies)

    def set_cookie(self, response: web.StreamResponse, name: str, value: str) -> None:
        """Give a browser a cookie that no script reads and no other site sends."""
        response.set_cookie(
            name, value, path="/", httponly=True, samesite="Lax", secure=not self._plain,
            max_age=self._settings.web_session // 1000,
        )  # fmt: skip

    def _record(self, request: web.Request, asker: Viewer, page: Page, status: int) -> None:
        audit_log.info(
            "%s",
            json.dumps(
                {
                    "audit": page.path, "by": asker.name, "role": asker.role.title,
                    "from": request.remote, "status": status, **audit_details(request),
                }
            ),
        )  # fmt: skip


GUARD = web.AppKey("guard", Guard)


def _host_of(text: str) -> str:
    try:
        return (urlsplit(f"//{text}").hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")
