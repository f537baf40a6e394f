"""Passwords and tokens: how many attempts are allowed, over which connections, and whose they are."""

import asyncio
import hmac
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address

from aiohttp import web

from app.encrypted_credentials import others_can_read
from app.errors import SettingsError
from app.settings import Settings
from app.web.access.rate_limits import RateLimit
from app.web.access.users import User, Users
from app.web.replies import RefusedError

#: Whoever asks where no login is needed.
LOCAL_NAME = "local"

logger = logging.getLogger("fraudstream.web")

#: Logins as one user from one address, or from a browser in which they have logged in: some typing errors, no
#: dictionary.
_OWN_BURST, _OWN_PER_SECOND = 10, 1 / 12
#: Logins as one user from all other browsers together: addresses are cheap.
_NAME_BURST, _NAME_PER_SECOND = 50, 1 / 4
#: Logins from one address, and wrong tokens.
_ADDRESS_BURST, _ADDRESS_PER_SECOND = 60, 1.0  # a proxy may send everybody's from one address
#: Passwords that are verified at once: each takes 64 MiB.
_HASHES = 2


class LoginAttempts:
    """Checks credentials.

    Guessing is slow, and yet nobody can lock somebody else out by it: wrong passwords count for a name and address. A
    bound over all addresses and the bound of an address, which may be a proxy's, do not apply to a browser in which
    this user has logged in (a "device cookie": OWASP, Slow Down Online Guessing Attacks).

    Args:
        settings: the file of users; whether unencrypted connections are allowed.
        clock: seconds that never go back.

    Raises:
        SettingsError: the file of users cannot be used.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._allow_unencrypted = settings.allow_unencrypted_credentials
        self._users = Users(settings.web_users)
        self._owns = RateLimit(_OWN_BURST, _OWN_PER_SECOND, clock)
        self._names = RateLimit(_NAME_BURST, _NAME_PER_SECOND, clock)
        self._addresses = RateLimit(_ADDRESS_BURST, _ADDRESS_PER_SECOND, clock)
        # apart from logins: refused tokens of others behind the same proxy must not keep people from logging in
        self._tokens = RateLimit(_ADDRESS_BURST, _ADDRESS_PER_SECOND, clock)
        self._hashes = asyncio.Semaphore(_HASHES)

    def __bool__(self) -> bool:
        """Whether anybody can log in."""
        return bool(self._users)

    def by_token(self, request: web.Request, token: str) -> User:
        """The user of a bearer token.

        Raises:
            RefusedError: unknown, too many unknown ones, or over a connection that others can read.
        """
        self.require_encryption(request)
        self._renew()
        user = self._users.by_token(token)
        if user is None:
            raise self._wrong_token(request)
        return user

    def check_token(self, request: web.Request, wanted: bytes) -> None:
        """Check the bearer token of an interface that has one for all its clients.

        Raises:
            RefusedError: as `by_token`.
        """
        self.require_encryption(request)
        sent = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(sent, b"Bearer " + wanted):
            raise self._wrong_token(request)

    def _wrong_token(self, request: web.Request) -> RefusedError:
        if wait := self._tokens.take(_origin(request)):
            return _too_many("wrong tokens", wait)
        return RefusedError(401, "send a valid token: Authorization: Bearer TOKEN")

    def take(self, request: web.Request) -> None:
        """Count a login from this address.

        Raises:
            RefusedError: there were too many.
        """
        if wait := self._addresses.take(_origin(request)):
            raise _too_many("logins", wait)

    @contextmanager
    def counting_refusals(self, request: web.Request) -> Iterator[None]:
        """Around the check of a signed token: a refused one counts as a wrong token.

        A valid one is accepted whatever others have sent from its address, which may be a proxy's. The check costs a
        stranger's token little: a signature, and the provider is asked for new keys once in some seconds at most.

        Raises:
            RefusedError: there were too many refused ones from this address, and this is another.
        """
        try:
            yield
        except RefusedError as error:
            if error.status >= 500:  # the provider is away: not the fault of whoever asks
                raise
            if wait := self._tokens.take(_origin(request)):
                raise _too_many("wrong tokens", wait) from None
            raise

    async def by_password(
        self, request: web.Request, name: str, password: str, device: str | None = None
    ) -> User:
        """The user of a name and password.

        Args:
            request: from where.
            name: of the user.
            password: theirs.
            device: the browser, if this user has logged in there.

        Raises:
            RefusedError: wrong, too many attempts, or over a connection that others can read.
        """
        self.require_encryption(request)
        if device is None:
            self.take(request)
            wait = self._owns.take(f"{_origin(request)} {name}") or self._names.take(name)
        else:
            wait = self._owns.take(device)
        if wait:
            raise _too_many("logins", wait)
        self._renew()
        async with self._hashes:
            user = await asyncio.to_thread(self._users.by_password, name, password)
        if user is None:
            raise RefusedError(401, "wrong name or password")
        return user

    def of_session(self, name: str, stamp: str) -> User | None:
        """The user of a session, unless they were removed or have another password by now."""
        self._renew()
        user = self._users.get(name)
        return user if user is not None and user.stamp == stamp else None

    def _renew(self) -> None:
        try:
            self._users.renew()
        except SettingsError as error:
            logger.error("the file of users cannot be read, the last known users apply: %s", error)

    def is_taken(self, name: str) -> bool:
        """Whether a local user or token has this name, or one that differs in case only."""
        self._renew()
        return name.casefold() == LOCAL_NAME or self._users.has(name)

    def refuse_namesake(self, name: str) -> None:
        """Somebody whom the identity provider calls as a local user is called.

        Raises:
            RefusedError: audit records could not tell them apart.
        """
        if self.is_taken(name):
            raise RefusedError(
                403,
                f"{name} is also a user or token of FRAUDSTREAM_WEB_USERS, or a name that fraudstream itself uses: "
                "audit records could not tell them apart",
            )

    def require_encryption(self, request: web.Request) -> None:
        """Credentials beyond loopback need TLS, by a proxy that says so.

        Raises:
            RefusedError: others can read the connection.
        """
        if not others_can_read(str(request.remote), allowed=self._allow_unencrypted):
            return
        if request.headers.get("X-Forwarded-Proto") != "https":
            raise RefusedError(
                403,
                "passwords and tokens are accepted over https only: put a proxy with TLS before the workers, or set "
                "FRAUDSTREAM_ALLOW_UNENCRYPTED_CREDENTIALS=true",
            )


def _origin(request: web.Request) -> str:
    """Whom attempts from an address count for: an IPv6 network is one client's, with all its addresses."""
    remote = str(request.remote)
    try:
        address = IPv6Address(remote.partition("%")[0])
    except ValueError:
        return remote
    return str(address.ipv4_mapped or address.packed[:8].hex())


def _too_many(what: str, wait: float) -> RefusedError:
    return RefusedError(429, f"too many {what}: wait", retry_after=math.ceil(wait))
