"""Tokens for SASL/OAUTHBEARER: from an identity provider's address, a file, or a function of the deployment's own."""

import asyncio
import importlib
import inspect
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import SaslAuthenticationFailed

from app.errors import SettingsError, UnavailableError
from app.settings import Settings

_ANSWER_SECONDS = 10.0
#: A token is renewed when this part of its life is left.
_RENEW_AT = 0.2
_MOST_ANSWER_BYTES = 1 << 20
_SETTING = "FRAUDSTREAM_KAFKA_TOKEN_PROVIDER"


_step = OAuthAuthenticator.step


async def refused_step(self: Any, answer: bytes | None) -> Any:
    """The step of aiokafka's login by token, which takes any answer for a success: a broker that refuses says why.

    Raises:
        SaslAuthenticationFailed: the broker refuses the token.
    """
    if answer:
        raise SaslAuthenticationFailed(answer.decode(errors="replace"))
    return await _step(self, answer)


def install() -> None:
    """Let every client of this process notice that its token is refused."""
    refused_step.__wrapped__ = _step  # type: ignore[attr-defined]  # tests watch it
    OAuthAuthenticator.step = refused_step


install()


class Tokens(AbstractTokenProvider):  # type: ignore[misc,unused-ignore]
    """Gives aiokafka a token at each login.

    Args:
        obtain: gets one.
    """

    def __init__(self, obtain: Callable[[], Awaitable[str]]) -> None:
        self._obtain = obtain

    async def token(self) -> str:
        """A token that is valid now.

        Raises:
            UnavailableError: there is none; the text says why.
        """
        return await self._obtain()


def token_provider(settings: Settings) -> Tokens:
    """What `FRAUDSTREAM_KAFKA_TOKEN_PROVIDER` says.

    Raises:
        SettingsError: it names nothing that can be used.
    """
    where = settings.kafka_token_provider or ""
    if where.startswith(("https://", "http://")):
        return Tokens(_Issued(settings, where).get)
    if where.startswith("file:"):
        return Tokens(_in_file(Path(where.removeprefix("file:"))))
    return Tokens(_called(where))


def _in_file(path: Path) -> Callable[[], Awaitable[str]]:
    """What somebody else keeps renewing, such as Kubernetes: read at each login."""

    async def read() -> str:
        try:
            return (await asyncio.to_thread(path.read_text)).strip()
        except OSError as error:
            msg = f"{_SETTING}=file:{path} cannot be read: {error.strerror}"
            raise UnavailableError(msg) from error

    return read


def _called(where: str) -> Callable[[], Awaitable[str]]:
    module, _, name = where.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"{_SETTING}={where} is not a function: write https://..., file:PATH or MODULE:FUNCTION ({error})"
        raise SettingsError(msg) from None

    async def call() -> str:
        try:
            found: Any = await asyncio.to_thread(function)
            if inspect.isawaitable(found):
                found = await found
        except (
            Exception
        ) as error:  # it is not ours: whatever it raises must not carry a token into a log
            msg = f"{_SETTING}={where} fails: {type(error).__name__}"
            raise UnavailableError(msg) from None
        return str(found)

    return call


class _Issued:
    """Client credentials (RFC 6749, 4.4), kept until most of their life is over. Used by more than one event loop."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._url = url
        password = settings.kafka_password
        pair = f"{settings.kafka_username}:{password.get_secret_value() if password else ''}"
        self._headers = {"Authorization": "Basic " + b64encode(pair.encode()).decode()}
        self._form = {"grant_type": "client_credentials"}
        if settings.kafka_token_scope:
            self._form["scope"] = settings.kafka_token_scope
        self._token, self._until = "", 0.0

    async def get(self) -> str:
        if time.monotonic() >= self._until:
            token, seconds = await self._ask()
            self._token, self._until = token, time.monotonic() + seconds * (1 - _RENEW_AT)
        return self._token

    async def _ask(self) -> tuple[str, float]:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(
                    self._url, data=self._form, headers=self._headers, allow_redirects=False
                ) as answer,
            ):
                if answer.status != 200:
                    msg = (
                        f"the token provider {self._url} answers {answer.status}: check FRAUDSTREAM_KAFKA_USERNAME "
                        "and FRAUDSTREAM_KAFKA_PASSWORD (client id and secret)"
                    )
                    raise UnavailableError(msg)
                body = await answer.content.read(_MOST_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            msg = f"no answer from the token provider {self._url} ({type(error).__name__}): check {_SETTING}"
            raise UnavailableError(msg) from error
        import orjson

        try:
            found = orjson.loads(body)
            return str(found["access_token"]), float(found.get("expires_in", 60))
        except (ValueError, TypeError, KeyError, AttributeError):
            msg = f"{_SETTING}={self._url} does not answer with a token: is it the token endpoint?"
            raise UnavailableError(msg) from None
