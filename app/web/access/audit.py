"""The audit log: a line of JSON for each change that somebody makes by a page."""

import json
import logging

from aiohttp import web

from app.web.roles import Viewer
from app.web.routes import Route, audit_details

audit_log = logging.getLogger("fraudstream.audit")
audit_log.setLevel(logging.INFO)  # whatever the worker's log level: the record of changes is kept


def record(request: web.Request, asker: Viewer, page: Route, status: int) -> None:
    """Write down who changed what, from where, and how it ended."""
    audit_log.info(
        "%s",
        json.dumps(
            {
                "audit": page.path, "by": asker.name, "role": asker.role.title,
                "from": request.remote, "status": status, **audit_details(request),
            }
        ),
    )  # fmt: skip
