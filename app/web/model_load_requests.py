"""Asks the running workers whether they can load a model, before a change of it is on the log.

The host of a command has its own settings and libraries. What workers have, only they know: each one that answers
fetches the model from the registry and loads it, as it would for the change.
"""

import asyncio
import time
from typing import NamedTuple

import aiohttp
import orjson

from app.errors import FraudstreamError, UnavailableError
from app.kafka.clients import worker_urls
from app.settings import Settings
from app.web import worker_requests
from app.web.access.signed_values import Signer
from app.web.roles import Role, Viewer

_PATH = "/models/load.json?hash={}"
#: Loading a large model takes seconds.
_WAIT_MS = 14_000
_OK = 200
#: What other statuses mean here.
_STATUS = {
    401: "it answers with status 401: give this command the workers' FRAUDSTREAM_WEB_SECRET",
    404: "it is of an earlier release",
}


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
    async with aiohttp.ClientSession() as client:
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
                signer, asker, target, "GET", path, b"", time.time()
            )
        try:
            answer = await worker_requests.request_worker(
                client, target + path, "GET", headers, None, score_timeout_ms=_WAIT_MS
            )
        except UnavailableError:
            return None, "it does not answer"
        if signer is not None:
            answer = worker_requests.checked(
                signer, headers[worker_requests.PEER_HEADER], answer, target
            )
        if answer.status != _OK:
            return None, _STATUS.get(answer.status, f"it answers with status {answer.status}")
        said = orjson.loads(answer.body)
        return said["loads"], str(said["reason"])
    except FraudstreamError as error:
        return None, str(error)
    except (ValueError, KeyError, TypeError):
        return None, "its answer cannot be read"
