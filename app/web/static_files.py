"""The style sheet and scripts of the pages, and how long browsers keep them."""

from aiohttp import web

from app.errors import NotFoundError
from app.web import page_templates
from app.web.roles import Role
from app.web.routes import Route

_KEPT_SECONDS = 86_400


async def style_sheet(_request: web.Request) -> web.Response:
    """The style sheet; its address changes with it, so a browser may keep it."""
    return kept_by_browsers(page_templates.style(), "text/css")


async def static_file(request: web.Request) -> web.Response:
    """A script, or what belongs to it; the address changes with the release."""
    name = request.match_info["name"]
    if name not in page_templates.STATIC:
        msg = f"no file {name!r}"
        raise NotFoundError(msg)
    return kept_by_browsers(page_templates.static(name), page_templates.STATIC[name])


def kept_by_browsers(text: str, content_type: str) -> web.Response:
    """A file of ours."""
    response = web.Response(text=text, content_type=content_type, charset="utf-8")
    response.headers["Cache-Control"] = f"public, max-age={_KEPT_SECONDS}"
    return response


PAGES = (
    Route("GET", "/style.css", style_sheet, Role.PUBLIC),
    Route("GET", "/static/{name}", static_file, Role.PUBLIC),
)
