"""Hands messages to receivers: signed webhooks, and everything that `apprise` knows."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson

from app.encrypted_credentials import others_can_read, to_receiver
from app.errors import (
    ClosedError,
    NotAnsweringError,
    NotTakenError,
    RejectedError,
    SettingsError,
    UnavailableError,
)
from app.notify.message_text import Message
from app.notify_routes import Route
from app.settings import Settings

#: What a receiver may take to answer.
SEND_SECONDS = 15.0
#: Between attempts to reach it, seconds: the first, and the most.
BACKOFF_SECONDS = (1.0, 30.0)
#: How urgent a message is, in the words of `apprise`.
_KINDS = {"low": "info", "medium": "warning", "high": "failure", "critical": "failure"}
_MISSING = "is not installed: pip install 'fraudstream[notify]'"
#: Answers about the message itself: too large, not understood. Repeating it does not help.
_REJECTED = frozenset({400, 413, 414, 415, 422, 431})
#: Answers about us: not allowed, or nobody is there any more (410 asks for no further message, by the convention).
_CLOSED = {
    401: "it does not accept the credentials",
    403: "it forbids the request",
    410: "it is gone and wants no further messages",
}
#: Answers of a receiver that is there and wants to be asked later.
_LATER = frozenset({408, 425, 429, 502, 503, 504})


class Sender(Protocol):
    """Sends to one receiver."""

    async def send(self, message: Message) -> None:
        """Return once the receiver has taken the message.

        Raises:
            NotAnsweringError: it has not; it may later (`NotTakenError`: it answers).
            RejectedError: it never takes this one.
            ClosedError: it takes none.
        """

    async def close(self) -> None:
        """Drop connections."""


class Webhook:
    """POSTs JSON, signed as Standard Webhooks asks for (standardwebhooks.com).

    Args:
        url: where to.
        secret: `whsec_` and base64.
    """

    def __init__(self, url: str, secret: str) -> None:
        try:
            from standardwebhooks.webhooks import Webhook as Signer
        except ImportError as error:
            msg = f"webhooks need the package standardwebhooks, which {_MISSING}"
            raise SettingsError(msg) from error
        self._url = url
        self._signer = Signer(secret)
        self._client: aiohttp.ClientSession | None = None

    async def send(self, message: Message) -> None:
        """See `Sender`. Any 2xx answer is an acknowledgement."""
        if self._client is None:
            self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SEND_SECONDS))
        body, now = orjson.dumps(message.payload).decode(), datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message.id, now, body),
        }
        where = urlsplit(self._url).netloc.rpartition("@")[2]
        try:
            async with self._client.post(
                self._url, data=body.encode(), headers=headers, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:  # noqa: PLR2004
                    raise refusal_of(where, response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            msg = f"{where} does not answer ({type(error).__name__})"
            raise NotAnsweringError(msg) from error

    async def close(self) -> None:
        """See `Sender`."""
        if self._client is not None:
            await self._client.close()


class People:
    """E-mail, Slack, Teams, PagerDuty and what else `apprise` reaches.

    Args:
        route: its name and URL; errors tell only the name.
        unencrypted: whether secrets may go to other machines without TLS.

    Raises:
        SettingsError: the package is missing, it does not know the URL, or others could read what is sent.
    """

    def __init__(self, route: Route, *, unencrypted: bool = False) -> None:
        try:
            import apprise
        except ImportError as error:
            msg = f"route {route.name} needs the package apprise, which {_MISSING}"
            raise SettingsError(msg) from error
        self._to: Any = apprise.Apprise()
        self._capture = apprise.LogCapture
        with self._capture(level=logging.ERROR):  # it would print the URL
            known = self._to.add(route.url)
        if not known:
            msg = (
                f"FRAUDSTREAM_NOTIFY_ROUTES: the URL of route {route.name} is none that apprise knows: see "
                "https://appriseit.com/services/"
            )
            raise SettingsError(msg)
        for service in self._to:
            # of a service that has both, such as mailto and mailtos; where it has one only, that is https
            plain = service.protocol and not service.secure
            host = getattr(service, "smtp_host", None) or service.host or "localhost"
            if plain and others_can_read(host, allowed=unencrypted):
                raise SettingsError(str(to_receiver(route.name, host)))

    async def send(self, message: Message) -> None:
        """See `Sender`."""
        try:
            async with asyncio.timeout(2 * SEND_SECONDS):
                taken = await self._to.async_notify(
                    title=message.title, body=message.body, notify_type=_KINDS[message.severity]
                )
        except TimeoutError:
            taken = False
        if not taken:
            msg = "the service does not accept the message"
            raise NotTakenError(msg)

    async def close(self) -> None:
        """See `Sender`."""


def refusal_of(where: str, status: int) -> UnavailableError:
    """What the status of an answer that is no acknowledgement means."""
    msg = f"{where} answers {status}"
    if status in _CLOSED:
        return ClosedError(f"{msg}: {_CLOSED[status]}")
    if status in _REJECTED:
        return RejectedError(msg)
    return NotAnsweringError(msg) if status in _LATER else NotTakenError(msg)


def sender_of(route: Route, settings: Settings) -> Sender:
    """What sends to a route.

    Raises:
        SettingsError: a package or the secret is missing, or the URL is none.
    """
    if not route.is_webhook:
        return People(route, unencrypted=settings.allow_unencrypted_credentials)
    if settings.notify_secret is None:
        msg = (
            f"route {route.name} is a webhook: set FRAUDSTREAM_NOTIFY_SECRET, which signs its messages "
            "(`echo whsec_$(openssl rand -base64 24)` makes one)"
        )
        raise SettingsError(msg)
    return Webhook(route.url, settings.notify_secret.get_secret_value())
