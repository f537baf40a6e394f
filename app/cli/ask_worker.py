"""Asks a running worker's web view for JSON: finds the worker, turns its errors into ours."""

import json
from http.client import HTTPException
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from app.encrypted_credentials import Sending, others_can_read
from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.pseudonyms import is_pseudonym
from app.settings import Settings

_TIMEOUT_SECONDS = 10.0
#: As app/web/pages.py sends it.
_DEPLOYMENT_HEADER = "X-Fraudstream-Deployment"
#: Addresses that a server binds to for "everywhere" are none to connect to.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


class _Answer(NamedTuple):
    status: int
    deployment: str | None
    body: bytes


def ask(settings: Settings, kind: str, identifier: str, url: str | None) -> bytes:
    """The JSON of a view, to the byte as the worker sent it.

    Args:
        settings: say where workers of this deployment are.
        kind: `card` or `terminal`.
        identifier: its id.
        url: where to ask; None: the settings' port, then the workers recorded in the home folder.

    Raises:
        NotFoundError: the worker knows no such key.
        UnavailableError: no worker answers, or the key cannot be read just now.
        UsageError: the id can be none.
    """
    if kind == "card" and settings.pseudonyms is not None and not is_pseudonym(identifier):
        return _ask_each(settings, settings.pseudonyms.all_of(identifier), url)
    candidates = [url.rstrip("/")] if url else worker_urls(settings)
    deployment = settings.deployment
    query = urlencode({"id": identifier})
    for candidate in candidates:
        answer = _get(f"{candidate}/{kind}s/?{query}", settings)
        # a port may belong to another program, or to the worker of another deployment
        if answer is None or answer.deployment is None:
            continue
        if url is None and answer.deployment != deployment:
            continue
        return _accept(answer)
    msg = f"no worker answers at {candidates[0]}: start one with `fraudstream worker`"
    raise UnavailableError(msg)


def _ask_each(settings: Settings, pseudonyms: list[str], url: str | None) -> bytes:
    """The state of a card under the newest of its pseudonyms that is known."""
    *newer, oldest = pseudonyms
    for each in newer:
        try:
            return ask(settings, "card", each, url)
        except NotFoundError:
            continue
    return ask(settings, "card", oldest, url)


def worker_urls(settings: Settings) -> list[str]:
    """Where workers of this deployment may answer, the likeliest first."""
    host = _EVERYWHERE.get(settings.web_host, settings.web_host)
    if ":" in host:
        host = f"[{host}]"
    urls = [f"http://{host}:{settings.web_port}"]
    for file in sorted((settings.home / "workers").glob("*/worker.json")):
        try:
            urls.append(str(json.loads(file.read_bytes())["url"]).rstrip("/"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # just being written, or left by a crash: no worker to ask
    if settings.web_port == 0 and len(urls) > 1:
        urls.pop(0)  # port 0 means "any": only the files know
    return list(dict.fromkeys(urls))


def _get(url: str, settings: Settings) -> _Answer | None:
    opener = build_opener(ProxyHandler({}))  # a proxy cannot reach this machine's ports
    headers = {"Accept": "application/json"}
    if settings.web_token is not None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        allowed = settings.allow_unencrypted_credentials
        if parts.scheme != "https" and others_can_read(host, allowed=allowed):
            raise UsageError(str(Sending("FRAUDSTREAM_WEB_TOKEN", "a token", host, "use https")))
        headers["Authorization"] = f"Bearer {settings.web_token.get_secret_value()}"
    try:
        request = Request(url, headers=headers)  # noqa: S310
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as reply:
            return _Answer(reply.status, reply.headers.get(_DEPLOYMENT_HEADER), reply.read())
    except HTTPError as error:
        with error:
            return _Answer(error.code, error.headers.get(_DEPLOYMENT_HEADER), error.read())
    except (OSError, HTTPException, ValueError):
        return None


def _accept(answer: _Answer) -> bytes:
    if answer.status == 200:
        return answer.body
    try:
        line = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        line = f"the worker answered with status {answer.status}"
    if answer.status in (401, 403):
        msg = (
            f"the worker refuses: {line}; set FRAUDSTREAM_WEB_TOKEN to a token with the web role analyst "
            "(`fraudstream users`)"
        )
        raise UnavailableError(msg)
    kinds: dict[int, type[FraudstreamError]] = {
        400: UsageError,
        404: NotFoundError,
        503: UnavailableError,
    }
    raise kinds.get(answer.status, FraudstreamError)(line)
