"""What every request passes before its page: host, rate limit, login, role, CSRF, audit.

| module            | decides                                                                        |
|-------------------|--------------------------------------------------------------------------------|
| hosts.py          | under which names this worker answers                                          |
| rate_limits.py    | how many requests anybody may send                                             |
| login_attempts.py | whether a password or token is accepted, and how many may be tried             |
| request_bodies.py | how long a body may be, and may take to arrive                                 |
| users.py          | who may log in, and with which role                                            |
| signed_values.py  | whether a session, or another signed value, is ours                            |
| cookies.py        | what browsers keep                                                             |
| csrf.py           | whether a form is ours                                                         |
| oidc.py           | who has logged in at the identity provider                                     |
| provider_cache.py | how seldom that provider is asked                                              |
| audit.py          | what is written down about a change                                            |
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute

from app.address_syntax import is_loopback
from app.cassandra.audit_records import AuditRecord
from app.errors import FraudstreamError, SettingsError, UnavailableError
from app.settings import Settings
from app.web import worker_requests
from app.web.access import audit
from app.web.access.cookies import Cookies
from app.web.access.csrf import Csrf
from app.web.access.hosts import Hosts
from app.web.access.login_attempts import LOCAL_NAME, LoginAttempts
from app.web.access.rate_limits import REQUEST_BURST, REQUESTS_PER_SECOND, RateLimit
from app.web.access.request_bodies import in_time, read_body
from app.web.access.signed_values import Session, Signer
from app.web.replies import RefusedError, status_of, wants_json
from app.web.roles import NOBODY, Role, Viewer, viewer
from app.web.routes import Handler, Route

if TYPE_CHECKING:
    from app.web.access.oidc import Oidc

logger = logging.getLogger("fraudstream.web")

#: After which a page gives up.
_SECONDS = 30.0
_LOCAL = Viewer(LOCAL_NAME, Role.OPERATOR)


class AccessChecks:
    """What all requests pass.

    Args:
        settings: of the deployment.
        own_url: where this worker answers.
        pages: the page of each route.
        now: epoch seconds.
        clock: seconds that never go back.

    Raises:
        SettingsError: the file of users cannot be used, or workers could not finish each other's logins.

    Attributes:
        open: whether no login is needed.
        hosts: the names of this worker.
        peers: signs requests between workers; None where nobody could tell them from others.
        cookies, csrf: for the login form.
        logins: by password and token.
        oidc: by an identity provider; None: no provider is set.
    """

    def __init__(
        self,
        settings: Settings,
        own_url: str,
        pages: Mapping[AbstractRoute, Route],
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        login = settings.web_login
        self.open = login == "never" or (
            login == "beyond-loopback" and is_loopback(settings.web_host)
        )
        self._own_url, self._pages, self._now = own_url, pages, now
        secret = settings.web_secret
        raw = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)
        self.peers = Signer(raw, "peers") if secret else None
        self.hosts = Hosts(settings, own_url)
        self.cookies = Cookies(settings, Signer(raw, "cookies"), Signer(raw, "devices"), now)
        self.csrf = Csrf(Signer(raw, "csrf"), self.hosts, self.cookies)
        self.logins = LoginAttempts(settings, clock)
        self.oidc = _oidc_of(settings, Signer(raw, "oidc"), now, clock)
        self._requests = RateLimit(REQUEST_BURST, REQUESTS_PER_SECOND, clock)
        self._public = {"/metrics"} if settings.web_open_metrics else set()
        if not self.open and not self.can_log_in:
            logger.warning(
                "nobody can log in to the web pages: set FRAUDSTREAM_WEB_USERS, see `fraudstream users`, or "
                "FRAUDSTREAM_WEB_OIDC_ISSUER"
            )

    @property
    def can_log_in(self) -> bool:
        """Whether anybody can."""
        return bool(self.logins) or self.oidc is not None

    @property
    def middleware(self) -> Any:
        """For `web.Application.middlewares`."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            page = self._pages.get(request.match_info.route)
            if page is not None and not page.own_login:
                return await self._pass(request, page)
            if page is None and request.match_info.http_exception is None:
                raise RefusedError(404, "this page is in no table of pages")  # it names no role
            return await handler(request)

        return check

    async def log_in(self, request: web.Request, name: str, password: str) -> str:
        """The session cookie's value.

        Raises:
            RefusedError: as `LoginAttempts.by_password`.
        """
        device = self.cookies.device_of(request, name)
        user = await self.logins.by_password(request, name, password, device)
        return self.cookies.begin(user.name, user.stamp)

    async def admit_program(self, request: web.Request, token: bytes | None) -> None:
        """Check a request to an interface that has one token for all its clients, before its body is read.

        Args:
            request: of a program, or of a worker that a program has asked.
            token: of the interface; None: it answers to loopback names only.

        Raises:
            RefusedError: the Host header is not ours, the token is wrong, there were too many wrong ones, or others can
                read the connection.
        """
        if header := request.headers.get(worker_requests.PEER_HEADER):
            await self._vouched(request, header)
            return
        self.hosts.check(request)
        if token is not None:
            self.logins.check_token(request, token)
        elif not self.hosts.is_loopback(request):
            # A page elsewhere may make a visitor's browser ask. It cannot be of this site without a name of its own
            # (DNS rebinding), nor send JSON to another site (no CORS here).
            raise RefusedError(
                401, "without FRAUDSTREAM_SCORE_TOKEN, only requests to loopback are answered"
            )

    async def _pass(self, request: web.Request, page: Route) -> web.StreamResponse:
        if not page.any_host:
            self.hosts.check(request)
        asker = await self._asker(request)
        if not self.open and not page.any_host:
            wait = self._requests.take(asker.name or str(request.remote))
            if wait:
                raise RefusedError(429, "too many requests: wait", retry_after=math.ceil(wait))
        if asker.role < page.role and page.path not in self._public:
            self._refuse(request, asker, page)
        if page.method != "POST":
            return await self._answer(request, page, asker)
        return await self._change(request, page, asker)

    async def _change(self, request: web.Request, page: Route, asker: Viewer) -> web.StreamResponse:
        """Answer what changes something, and write down who did what."""
        outcome, why = 500, "this page failed"
        begun: AuditRecord | None = None
        try:
            self._check_author(request, asker, page)
            async with in_time():
                await self.csrf.check(request, asker)
                await request.post()
            begun = await audit.begin(request, asker, page)
            response = await self._answer(request, page, asker)
            outcome, why = response.status, ""
        except FraudstreamError as error:
            outcome, why = status_of(error), str(error)
            raise
        except web.HTTPException as error:
            outcome, why = error.status, ""
            raise
        finally:
            audit.record(request, asker, page, outcome)
            await audit.end(request, begun, outcome, why or None)
        return response

    async def _answer(self, request: web.Request, page: Route, asker: Viewer) -> web.StreamResponse:
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

    async def _asker(self, request: web.Request) -> Viewer:
        if header := request.headers.get(worker_requests.PEER_HEADER):
            return await self._vouched(request, header)
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            self.logins.require_encryption(request)
            if self.oidc and self.oidc.is_for_us(token.strip()):
                with self.logins.counting_refusals(request):
                    person = await self.oidc.of_bearer(token.strip())
                    self.logins.refuse_namesake(person[0])
                return Viewer(*person)
            user = self.logins.by_token(request, token.strip())
            return Viewer(user.name, user.role)
        session = self.cookies.read(request)
        role = self._role_of(session) if session else None
        if session and role:
            return Viewer(session.name, role, self.csrf.token(session.nonce), session=True)
        if self.open:
            return Viewer(_LOCAL.name, _LOCAL.role, self.csrf.token(LOCAL_NAME))
        return NOBODY

    def _role_of(self, session: Session) -> Role | None:
        if self.oidc and (role := self.oidc.role_of(session.stamp)):
            return None if self.logins.is_taken(session.name) else role
        user = self.logins.of_session(session.name, session.stamp)
        return None if user is None else user.role

    async def _vouched(self, request: web.Request, header: str) -> Viewer:
        path = request.rel_url.raw_path_qs
        found = self.peers and worker_requests.asker_of(
            self.peers, header, self._own_url, request.method, path, self._now()
        )
        # the signature first: the body of a stranger is not read
        if not found or not found.sent(await read_body(request)):
            raise RefusedError(401, "this request is not from a worker of this deployment")
        return found.asker

    # ------------------------------------------------------------------ what they may

    def _refuse(self, request: web.Request, asker: Viewer, page: Route) -> NoReturn:
        if asker.role is not Role.PUBLIC:
            raise RefusedError(
                403,
                f"this needs the web role {page.role.title}; {asker.name} has {asker.role.title}",
            )
        if not self.can_log_in:
            raise RefusedError(
                401,
                "nobody can log in yet: an operator must set FRAUDSTREAM_WEB_USERS or FRAUDSTREAM_WEB_OIDC_ISSUER",
            )
        if wants_json(request) or page.method == "POST" or not _is_browser(request):
            raise RefusedError(401, "log in, or send a token: Authorization: Bearer TOKEN")
        raise web.HTTPSeeOther(f"/login?next={quote(request.rel_url.raw_path_qs, safe='')}")

    def _check_author(self, request: web.Request, asker: Viewer, page: Route) -> None:
        """A change has an author: where no login is needed, only whoever sits at this machine is known."""
        anybody = self.open and asker.name == _LOCAL.name and not asker.session
        if anybody and page.role > Role.PUBLIC and not is_loopback(str(request.remote)):
            raise RefusedError(
                403,
                "changes from other machines need a login: set FRAUDSTREAM_WEB_USERS and FRAUDSTREAM_WEB_LOGIN",
            )


ACCESS = web.AppKey("access", AccessChecks)


def _oidc_of(
    settings: Settings, signer: Signer, now: Callable[[], float], clock: Callable[[], float]
) -> "Oidc | None":
    if not settings.web_oidc_issuer:
        return None
    if settings.web_secret is None:
        msg = (
            "FRAUDSTREAM_WEB_OIDC_ISSUER needs FRAUDSTREAM_WEB_SECRET, the same for all workers: a login may begin at "
            "one worker and end at another"
        )
        raise SettingsError(msg)
    from app.web.access.oidc import Oidc  # what verifies tokens is loaded where they are used only

    return Oidc(settings, signer, now, clock)


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")
