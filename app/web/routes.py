"""The table of pages: each names the role that it needs, so none can be forgotten.

A module with pages has a table, which app/web/pages.py adds to the others:

```python
PAGES = (
    Page("GET", "/alerts/", alerts, Role.ANALYST),
    Page("POST", "/alerts/{id}/verdict", judge, Role.ANALYST),
)
```

Whatever changes something is a POST: it needs the form's CSRF token (`{{ viewer.csrf_field }}` in the template) unless
a bearer token asks, and leaves an audit record (access/audit.py). `audited(request, verdict="fraud")` adds to that
record; ids of cards do not belong there, because it is logged as well. `who(request)` says who asks; templates know
them as `viewer`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from app.web.roles import Role, Viewer, viewer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_AUDIT = web.RequestKey("audit", dict)


@dataclass(frozen=True)
class Route:
    """One route.

    Attributes:
        method: POST where it changes something.
        path: as aiohttp writes it.
        handler: answers it.
        role: who may ask.
        any_host: whether the Host header does not matter: probes of orchestrators ask by address.
        own_login: whether the handler itself checks who asks, and everything else: an interface for programs.
        action: what audit records call the change; empty: it leaves a log line, but no record in Cassandra.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    role: Role
    any_host: bool = False
    own_login: bool = False
    action: str = ""


def who(_request: web.Request) -> Viewer:
    """Who asks."""
    return viewer.get()


def audited(request: web.Request, **details: Any) -> None:
    """Add to the audit record of a change."""
    request[_AUDIT] = audit_details(request) | details


def audit_details(request: web.Request) -> dict[str, Any]:
    """What handlers added to the audit record."""
    details: dict[str, Any] = request.get(_AUDIT, {})
    return details
