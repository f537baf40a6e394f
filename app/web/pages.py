"""HTML from templates: autoescaped, one base, no scripts and nothing from elsewhere."""

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app import formats
from app.metrics.prometheus import release
from app.web.ids import json_path_of, path_of
from app.web.roles import viewer

TEMPLATES = Path(__file__).parent / "templates"


def style() -> str:
    """The style sheet of every page."""
    return (TEMPLATES / "style.css").read_text()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": formats.amount,
        "average": formats.average,
        "bytes": formats.size,
        "moment": formats.moment,
        "ms": formats.milliseconds,
        "number": formats.number,
        "value": formats.value,
    }
    environment.globals |= {
        "json_path_of": json_path_of,
        "path_of": path_of,
        "release": release(),
        # a browser keeps the style sheet until it changes
        "style_version": blake2b(style().encode(), digest_size=4).hexdigest(),
    }
    return environment


def render(template: str, **context: Any) -> str:
    """One page.

    Args:
        template: its file below templates/.
        context: what it shows; `viewer` is who asks (app/web/roles.py).
    """
    return _environment().get_template(template).render(viewer=viewer.get(), **context)


def now_text(now: float) -> str:
    """The moment of a page, to the second, UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S")
