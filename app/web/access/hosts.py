"""The names under which this worker answers: any other Host header is refused.

If an attacker points a name at our address, a browser takes our pages for the attacker's (DNS rebinding).
"""

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from app.address_syntax import is_loopback
from app.settings import Settings
from app.web.replies import RefusedError

#: Values of the Host header whose look-up is remembered.
_REMEMBERED = 256


class Hosts:
    """The names of one worker.

    Args:
        settings: names of the deployment.
        own_url: where this worker answers.
    """

    def __init__(self, settings: Settings, own_url: str) -> None:
        named = (settings.web_host, settings.advertised_host, urlsplit(own_url).hostname)
        further = settings.web_hosts.split(",")
        self._is_ours = lru_cache(_REMEMBERED)(self._look)
        self._hosts = {name.strip().lower() for name in (*named, *further) if name} - {""}

    def check(self, request: web.Request) -> None:
        """Refuse a request to another name.

        Raises:
            RefusedError: the Host header is not one of ours.
        """
        if not self.is_ours(request):
            host = _host_of(request.headers.get("Host", ""))
            raise RefusedError(
                421,
                f"{host!r} is not a name of this worker: an operator can add it to FRAUDSTREAM_WEB_HOSTS",
            )

    def is_ours(self, request: web.Request) -> bool:
        """Whether a request is to a name of ours, or to an address."""
        return self._is_ours(request.headers.get("Host", ""))

    def is_loopback(self, request: web.Request) -> bool:
        """Whether a request is to a name or address of loopback."""
        return is_loopback(_host_of(request.headers.get("Host", "")))

    def is_origin(self, origin: str) -> bool:
        """Whether an Origin header names one of our pages."""
        return self._is_ours(urlsplit(origin).netloc)

    def _look(self, text: str) -> bool:
        host = _host_of(text)
        try:
            ip_address(host)  # nobody can make an address their own by DNS
        except ValueError:
            return host in self._hosts or is_loopback(host)
        return True


def _host_of(text: str) -> str:
    try:
        return (urlsplit(f"//{text}").hostname or "").lower().rstrip(".")
    except ValueError:
        return ""
