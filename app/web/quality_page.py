"""`/quality/`: how good decisions were, by the labels that have come."""

from aiohttp import web

from app.errors import UsageError
from app.web.alerts_page import moment_of
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.worker_protocol import WORKER


async def quality(request: web.Request) -> web.Response:
    """`/quality/`: how good decisions were, by the labels that have come."""
    asked = request.query
    if unknown := sorted(asked.keys() - {"from", "to"}):
        msg = f"unknown parameter {unknown[0]!r}: the parameters are from and to"
        raise UsageError(msg)
    period = moment_of("from", asked), moment_of("to", asked)
    result = await request.app[WORKER].quality(*period)
    if wants_json(request):
        return json_reply(result)
    tables = {
        "": {"All": result["total"]},
        "By model": result["by_model"],
        "By day": dict(reversed(result["by_day"].items())),
    }
    shown = {name: asked.get(name, "") for name in ("from", "to")}
    return page("quality.html", result=result, tables=tables, asked=shown)


PAGES = tuple(Route("GET", f"/quality{rest}", quality, Role.VIEWER) for rest in ("", "/", ".json"))
