"""Latency against load as an SVG: both axes logarithmic, a line for each quantile of each system."""

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from app.lab.bench.report import System

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 30, 50
_COLOURS = ("#1f6feb", "#d1481e", "#3a7d44", "#8250df", "#9a6700")
_DASHES = {"p50": "none", "p99": "6 3", "p99.9": "2 3"}


def latency_svg(systems: Sequence[System], title: str) -> str:
    """The picture.

    Args:
        systems: those with latency runs are drawn.
        title: one line: what machine, what load.

    Raises:
        ValueError: there is nothing to draw.
    """
    drawn = [system for system in systems if system.latency]
    rates = [load.rate for system in drawn for load in system.latency]
    values = [
        ms for system in drawn for load in system.latency for ms in load.quantiles_ms.values()
    ]
    if not values:
        msg = "no latency was measured, so there is nothing to plot"
        raise ValueError(msg)
    x = _scale(rates, _LEFT, _WIDTH - _RIGHT)
    y = _scale([max(ms, 0.1) for ms in values], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 18, title),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, "load, events per second", "middle"),
        _text(12, _TOP - 8 + 24, "ms"),
    ]
    for ms in _ticks(values):
        parts.append(_line(_LEFT, y(ms), _WIDTH - _RIGHT, y(ms), "#ddd"))
        parts.append(_text(_LEFT - 6, y(ms) + 4, f"{ms:g}", "end"))
    for rate in sorted(set(rates)):
        parts.append(_line(x(rate), _TOP, x(rate), _HEIGHT - _BOTTOM, "#eee"))
        parts.append(_text(x(rate), _HEIGHT - _BOTTOM + 16, f"{rate:,.0f}", "middle"))
    label = _TOP + 8
    for system, colour in zip(drawn, _COLOURS * len(drawn), strict=False):
        loads = sorted(system.latency, key=lambda load: load.rate)
        for name, dash in _DASHES.items():
            points = [(x(load.rate), y(max(load.quantiles_ms[name], 0.1))) for load in loads]
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
            parts += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points
            ]
            at = _WIDTH - _RIGHT + 12
            parts.append(_line(at, label, at + 26, label, colour, dash))
            parts.append(_text(at + 32, label + 4, f"{system.name} {name}"))
            label += 18
    return "\n".join([*parts, "</svg>", ""])


def _scale(values: Sequence[float], begin: float, end: float) -> Callable[[float], float]:
    """Logarithmic position of a value between two pixels."""
    low, high = math.log10(min(values)), math.log10(max(values))
    span = (high - low) or 1.0
    low, span = low - span * 0.05, span * 1.1
    return lambda value: begin + (end - begin) * (math.log10(value) - low) / span


def _ticks(values: Sequence[float]) -> list[float]:
    low, high = max(min(values), 0.1), max(values)
    steps = [m * 10.0**e for e in range(-1, 7) for m in (1, 2, 5)]
    return [step for step in steps if low <= step <= high]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dash}"/>'
    )
