"""Probes: when a worker is ready (`/health/ready`), the reasons that it gives when it is not, and `/health/live`."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from app.web.access.checks import ACCESS
from app.web.replies import json_reply
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER

_STATUS = ("not ready", "ready")


def why_not_ready(
    *,
    stopping: bool,
    joined: bool,
    rebalancing: bool,
    kafka_answers: bool,
    tables: Mapping[str, bool],
    sink: str | None,
    stopped: Iterable[str] = (),
) -> list[str]:
    """Why a worker cannot work now, one line per reason; empty when it is ready.

    A spare worker, which was assigned no partition, is ready: it does what there is to do.

    Args:
        stopping: it was told to stop.
        joined: it is a member of the consumer group.
        rebalancing: the group is assigning partitions.
        kafka_answers: Kafka answered a request just now.
        tables: by name, whether a table is recovered.
        sink: why predictions wait, None while they are written.
        stopped: why partitions cannot be read further.
    """
    if stopping:
        return ["this worker is stopping"]
    if not joined:
        return ["this worker has not joined the group yet"]
    reasons = [] if kafka_answers else ["Kafka does not answer"]
    reasons += ["partitions are being assigned"] if rebalancing else []
    reasons += [f"table {name} is being recovered" for name, ready in tables.items() if not ready]
    if sink is not None:
        reasons.append(f"predictions wait for Cassandra: {sink}")
    return [*reasons, *stopped]


async def live(_request: web.Request) -> web.Response:
    """`/health/live`: the event loop runs, or nobody would answer."""
    return json_reply({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """`/health/ready`: 200 when this worker does its work, else 503 with the reasons; and who waits for what.

    A load balancer may ask by any name, and gets the status. The lines are for names of ours: see `access.hosts`.
    """
    worker = request.app[WORKER]
    reasons = await worker.reasons()
    if not request.app[ACCESS].hosts.is_ours(request):
        return json_reply({"status": _STATUS[not reasons]}, 503 if reasons else 200)
    return readiness(reasons, worker.waits())


def readiness(reasons: list[str], waits: list[str]) -> web.Response:
    """The answer to a readiness probe."""
    answer: Mapping[str, Any] = {"status": _STATUS[not reasons], "reasons": reasons, "waits": waits}
    return json_reply(answer, 503 if reasons else 200)


PAGES = (
    Route("GET", "/health/live", live, Role.PUBLIC, any_host=True),
    Route("GET", "/health/ready", ready, Role.PUBLIC, any_host=True),
)
