"""Cookies: of a session, of a login form that was not sent yet, and of a browser in which somebody has logged in."""

from collections.abc import Callable

from aiohttp import web

from app.address_syntax import is_loopback
from app.settings import Settings
from app.web.access.signed_values import Session, Signer

#: How long a browser is known after a login.
_DEVICE_SECONDS = 180 * 86_400


class Cookies:
    """Writes and reads them.

    Args:
        settings: how long a session lasts; whether cookies may travel over http.
        signer: of sessions.
        devices: signer of browsers; apart, so that neither cookie passes for the other one.
        now: epoch seconds.

    Attributes:
        session: name of the session's cookie; with the prefix `__Host-` browsers accept it over https only, for this
            host only.
        login: name of the cookie that ties a login form to the browser that asked for it.
        oidc: name of the cookie of a login that has begun at the identity provider.
        again: name of the cookie that is there after a logout: the provider must ask for the credentials again.
        device: name of the cookie of a browser in which somebody has logged in by password.
    """

    def __init__(
        self, settings: Settings, signer: Signer, devices: Signer, now: Callable[[], float]
    ) -> None:
        self._secure = not (
            settings.allow_unencrypted_credentials or is_loopback(settings.web_host)
        )
        self._seconds = settings.web_session // 1000
        self._signer, self._devices, self._now = signer, devices, now
        self.session = "__Host-fraudstream" if self._secure else "fraudstream"
        self.login = f"{self.session}-login"
        self.oidc = f"{self.session}-oidc"
        self.again = f"{self.session}-again"
        self.device = f"{self.session}-device"

    def begin(self, name: str, stamp: str) -> str:
        """The value of a new session's cookie."""
        until = int(self._now()) + self._seconds
        return Session.begin(name, stamp, until).write(self._signer)

    def read(self, request: web.Request) -> Session | None:
        """The session of a request, if it is one of ours and has not ended."""
        return Session.read(request.cookies.get(self.session, ""), self._signer, self._now())

    def device_of(self, request: web.Request, name: str) -> str | None:
        """Which browser this is, if this user has logged in there."""
        cookie = request.cookies.get(self.device, "")
        found = Session.read(cookie, self._devices, self._now())
        return found.nonce if found is not None and found.name == name else None

    def remember(self, response: web.StreamResponse, name: str) -> None:
        """Make a browser known as one in which this user has logged in."""
        until = int(self._now()) + _DEVICE_SECONDS
        cookie = Session.begin(name, "", until).write(self._devices)
        self.set(response, self.device, cookie, _DEVICE_SECONDS)

    def set(
        self, response: web.StreamResponse, name: str, value: str, seconds: int | None = None
    ) -> None:
        """Give a browser a cookie that no script reads and no other site sends; for as long as a session by default."""
        response.set_cookie(
            name, value, path="/", httponly=True, samesite="Lax", secure=self._secure,
            max_age=seconds or self._seconds,
        )  # fmt: skip

    def delete(self, response: web.StreamResponse, name: str) -> None:
        """Take a cookie away again."""
        response.del_cookie(name, path="/", secure=self._secure)
