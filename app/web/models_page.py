"""`/models/`: what decides and since when, challengers, gates, drift of every feature, and how the models were trained.

Read-only. What decides comes from the topic `control`, gates from Cassandra, drift and the partitions from all workers.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from app.errors import UsageError
from app.quality.drift_detectors import MODERATE
from app.quality.drift_live import together
from app.web.forwarding import ask_for_json, said_within
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER

_HASH = re.compile(r"[0-9a-f]{16,128}")
#: How the table of features may be sorted: its first order first.
_SORTS = ("psi", "name", "missing")
#: What another worker says is worth little later.
_PEER_SECONDS = 3.0


async def models(request: web.Request) -> web.Response:
    """`/models/`: everything about models."""
    asked = request.query
    if unknown := sorted(asked.keys() - {"sort"}):
        msg = f"unknown parameter {unknown[0]!r}: the only parameter is sort"
        raise UsageError(msg)
    sort = asked.get("sort", _SORTS[0])
    if sort not in _SORTS:
        msg = f"sort={sort!r} is unknown: choose {', '.join(_SORTS)}"
        raise UsageError(msg)
    found = await described(request)
    if wants_json(request):
        return json_reply(found)
    for one in found["drift"].values():
        if one is not None:
            one["columns"] = ordered(one["columns"], sort)
    return page("models.html", sort=sort, moderate=MODERATE, **found)


async def worker_models(request: web.Request) -> web.Response:
    """`/models/worker.json`: what this worker tells the others for their pages."""
    return json_reply(await _own(request))


async def load_model(request: web.Request) -> web.Response:
    """`/models/load.json`: whether this worker can load a registered model, for commands that are about to use it."""
    wanted = request.query.get("hash", "")
    if request.query.keys() != {"hash"} or not _HASH.fullmatch(wanted):
        msg = "give hash=, the whole hash of a registered model"
        raise UsageError(msg)
    return json_reply(await request.app[WORKER].try_model(wanted))


async def described(request: web.Request) -> dict[str, Any]:
    """The page as plain values."""
    worker = request.app[WORKER]
    others = [url for url in worker.owners() if url.rstrip("/") != worker.url]
    own, told, *answers = await asyncio.gather(
        _own(request), worker.models(), *(_other(request, url) for url in others)
    )
    faults = {
        url: answer for url, answer in zip(others, answers, strict=True) if isinstance(answer, str)
    }
    known = [own, *(answer for answer in answers if not isinstance(answer, str))]
    partitions = {
        int(partition): decides for one in known for partition, decides in one["partitions"].items()
    }
    return {
        **told,
        "partitions": grouped(partitions),
        "drift": together([one["drift"] for one in known]),
        "faults": faults,
    }


async def _own(request: web.Request) -> dict[str, Any]:
    worker = request.app[WORKER]
    return {"partitions": worker.deciding(), "drift": await worker.drift()}


async def _other(request: web.Request, url: str) -> dict[str, Any] | str:
    asking = ask_for_json(request, url, "/models/worker.json")
    return await said_within(_PEER_SECONDS, asking)


def grouped(partitions: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Partitions of which the same is true together, the most first: one group unless a change is on its way."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for partition, decides in sorted(partitions.items()):
        key = decides["model"], decides["threshold"], tuple(decides["challengers"])
        groups.setdefault(key, []).append(partition)
    return [
        {"model": model, "threshold": threshold, "challengers": list(beside), "partitions": some}
        for (model, threshold, beside), some in sorted(
            groups.items(), key=lambda group: (-len(group[1]), group[1])
        )
    ]


def ordered(columns: Sequence[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Columns of drift in the order of a table; `bar`: 0 to 100, the limit being 100."""
    made = [{**one, "bar": round(min(1.0, one["psi"] / one["limit"]) * 100, 1)} for one in columns]
    if sort == "name":
        return sorted(made, key=lambda one: one["name"])
    return sorted(made, key=lambda one: (-one[sort], -one["psi"]))


PAGES = (
    *(Route("GET", f"/models{rest}", models, Role.VIEWER) for rest in ("", "/", ".json")),
    Route("GET", "/models/worker.json", worker_models, Role.VIEWER),
    Route("GET", "/models/load.json", load_model, Role.OPERATOR),
)
