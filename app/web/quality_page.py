"""`/quality/`: how good decisions of a period were, by the labels that have come."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from app.errors import UnavailableError, UsageError
from app.web.alerts_page import moment_of
from app.web.quality_data import DEFAULT_DAYS
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER

_PARAMETERS = ("from", "to")


async def quality(request: web.Request) -> web.Response:
    """Figures and curves of a period; while it is being measured for the first time, a page that says so."""
    asked = request.query
    if unknown := sorted(asked.keys() - set(_PARAMETERS)):
        msg = f"unknown parameter {unknown[0]!r}: the parameters are {', '.join(_PARAMETERS)}"
        raise UsageError(msg)
    begin, end = (moment_of(name, asked) for name in _PARAMETERS)
    if begin is not None and end is not None and begin >= end:
        msg = f"from {asked['from']} is not before to {asked['to']}"
        raise UsageError(msg)
    result = await request.app[WORKER].quality(begin, end)
    if wants_json(request):
        if result is None:
            msg = "this period is being measured: try again in some seconds"
            raise UnavailableError(msg)
        return json_reply(result)
    return page(
        "quality.html",
        scripts=True,
        result=result,
        tables={} if result is None else _tables(result),
        asked={name: asked.get(name, "") for name in _PARAMETERS},
        days=DEFAULT_DAYS,
        charts={} if result is None else _charts(result["curves"]),
    )


def _tables(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "": {"All": result["total"]},
        "By model": result["by_model"],
        "By day": dict(reversed(result["by_day"].items())),
    }


def _charts(curves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is drawn, by name: points as x and y, and the same as JSON for the script."""
    points = {
        "precision": [(recall, precision) for _, recall, precision in curves["precision_recall"]],
        "calibration": [(score, share) for score, share, _ in curves["calibration"]],
    }
    said = {"precision": curves["precision_recall"], "calibration": curves["calibration"]}
    return {
        name: {"points": points[name], "json": orjson.dumps(said[name]).decode()} for name in points
    }


PAGES = tuple(Route("GET", f"/quality{rest}", quality, Role.VIEWER) for rest in ("", "/", ".json"))
