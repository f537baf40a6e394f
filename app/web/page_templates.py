"""HTML from templates: autoescaped, one base, nothing from elsewhere. Some pages have scripts, and work without."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app import display
from app.metrics.prometheus import release
from app.web.roles import viewer
from app.web.url_ids import json_path_of, path_of

TEMPLATES = Path(__file__).parent / "templates"
#: What pages load beside the style sheet, and its kind. uPlot (MIT licence, uPlot.LICENSE) draws the charts.
STATIC = {
    "live.js": "text/javascript",
    "quality.js": "text/javascript",
    "review.js": "text/javascript",
    "uPlot.js": "text/javascript",
    "uPlot.css": "text/css",
    "uPlot.LICENSE": "text/plain",
}
#: Width and height of the lines that stand where no script draws.
_SPARK = (360, 60)


def style() -> str:
    """The style sheet of every page."""
    return (TEMPLATES / "style.css").read_text()


@lru_cache
def static(name: str) -> str:
    """A file that pages load."""
    return (TEMPLATES.parent / "static" / name).read_text()


def spark(values: Sequence[float | None]) -> str:
    """The points of an SVG line in a box of 360 by 60; unknown values are left out."""
    width, height = _SPARK
    top = max((value for value in values if value is not None), default=0) or 1
    step = width / max(1, len(values) - 1)
    return " ".join(
        f"{index * step:.1f},{height - height * value / top:.1f}"
        for index, value in enumerate(values)
        if value is not None
    )


def curve(points: Sequence[tuple[float, float]]) -> str:
    """The points of an SVG line in a box of 100 by 100, of values between 0 and 1."""
    return " ".join(f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in points)


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
        "amount": display.amount,
        "average": display.average,
        "bytes": display.size,
        "moment": display.moment,
        "ms": display.milliseconds,
        "number": display.number,
        "score": display.score,
        "second": display.second,
        "value": display.value,
    }
    environment.globals |= {
        "curve": curve,
        "json_path_of": json_path_of,
        "path_of": path_of,
        "release": release(),
        "spark": spark,
        "static_version": blake2b("".join(map(static, STATIC)).encode(), digest_size=4).hexdigest(),
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
