"""Asks the running workers whether they can load a model, before a change of it is on the log.

The host of a command has its own settings and libraries. What workers have, only they know: each one that answers
fetches the model from the registry and loads it, as it would for the change.
"""

import asyncio
import time
from typing import NamedTuple

import aiohttp
import orjson
from yarl import URL

from app.errors import FraudstreamError, UnavailableError
from app.kafka.clients import worker_urls
from app.settings import Settings
from app.web import worker_requests
from app.web.access.sessions import Signer
from app.web.roles import Role, Viewer
from app.web.worker_requests import PeerAnswer

_PATH = "/models/load.json?hash={}"
#: Loading a large model takes seconds; a worker that is not reached shows within a few.
_SECONDS, _CONNECT_SECONDS = 15.0, 3.0
_MOST_BYTES = 1 << 16
_OK, _NO_LOGIN, _NOT_FOUND = 200, 401, 404


class WorkerAnswers(NamedTuple):
    """What the workers of a deployment say about a model.

    Attributes:
        loads: addresses of those that have loaded it.
        refuses: by address, why the worker cannot load it.
        silent: by address, why the worker could not be asked.
        fault: why there is no list of workers; empty: there is one.
    """

    loads: list[str]
    refuses: dict[str, str]
    silent: dict[str, str]
    fault: str = ""


async def ask_workers(settings: Settings, model_hash: str, author: str) -> WorkerAnswers:
    """Ask every member of the consumer group; all at once, for 15 seconds at most.

    Args:
        settings: the deployment: workers recognise its `web_secret`, where they have one.
        model_hash: the whole hash of a registered model.
        author: who asks.
    """
    try:
        urls = await worker_urls(settings)
    except FraudstreamError as error:
        return WorkerAnswers([], {}, {}, str(error))
    answers = WorkerAnswers([], {}, {})
    timeout = aiohttp.ClientTimeout(total=_SECONDS, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        asking = (_ask(client, settings, url, model_hash, author) for url in urls)
        for url, (loads, reason) in zip(urls, await asyncio.gather(*asking), strict=True):
            if loads:
                answers.loads.append(url)
            else:
                (answers.silent if loads is None else answers.refuses)[url] = reason
    return answers


async def _ask(
    client: aiohttp.ClientSession, settings: Settings, url: str, model_hash: str, author: str
) -> tuple[bool | None, str]:
    """Whether a worker can load the model, None: it did not say; and why it cannot, or did not."""
    path, headers, signer = _PATH.format(model_hash), {"Accept": "application/json"}, None
    try:
        target = worker_requests.origin_of(url)
        if settings.web_secret is not None:
            signer = Signer(settings.web_secret.get_secret_value().encode(), "peers")
            asker = Viewer(author, Role.OPERATOR)
            headers[worker_requests.PEER_HEADER] = worker_requests.ask(
                signer, asker, target, "GET", path, time.time()
            )
        answer = await _get(client, target + path, headers)
        if signer is not None:
            answer = worker_requests.checked(
                signer, headers[worker_requests.PEER_HEADER], answer, target
            )
        if answer.status == _NOT_FOUND:
            return None, "it is of an earlier release"
        if answer.status == _NO_LOGIN:
            return (
                None,
                "it answers with status 401: give this command the workers' FRAUDSTREAM_WEB_SECRET",
            )
        if answer.status != _OK:
            return None, f"it answers with status {answer.status}"
        said = orjson.loads(answer.body)
        return said["loads"], str(said["reason"])
    except FraudstreamError as error:
        return None, str(error)
    except (ValueError, KeyError, TypeError):
        return None, "its answer cannot be read"


async def _get(client: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> PeerAnswer:
    try:
        async with client.get(
            URL(url, encoded=True), headers=headers, allow_redirects=False
        ) as response:
            body = b""
            async for chunk in response.content.iter_chunked(_MOST_BYTES):
                body += chunk
                if len(body) > _MOST_BYTES:
                    msg = f"it answers more than {_MOST_BYTES} bytes"
                    raise UnavailableError(msg)
            kind = response.headers.get("Content-Type", "")
            proof = response.headers.get(worker_requests.PROOF_HEADER, "")
            return PeerAnswer(response.status, kind, body, proof)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        msg = f"it does not answer ({type(error).__name__})"
        raise UnavailableError(msg) from error
