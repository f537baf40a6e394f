"""Contrast of the pages' colours by WCAG 2.1, level AA, dark and light: text 4.5, what has to be seen 3."""

import re
from itertools import product

import pytest

from app.web.page_templates import style

PAPERS = ("--paper", "--panel", "--bad-paper")
TEXT = ("--ink", "--quiet", "--accent", "--good", "--bad")
#: Lines of charts, bars, and borders of what people fill in or press.
SEEN = ("--edge", "--line1", "--line2", "--line3", "--accent", "--good", "--bad")
CONTROLS = ("input", "button", "select", "textarea", "kbd")
LIGHT, DARK = (
    dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{([^}]*)\}", style())
)


def luminance(colour: str) -> float:
    """Relative luminance: https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1, the same, to 21, black on white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [LIGHT, {**LIGHT, **DARK}], ids=["light", "dark"])
def test_text_and_edges_are_seen(theme: dict[str, str]) -> None:
    low = {
        (name, paper): contrast(theme[name], theme[paper])
        for names, least in ((TEXT, 4.5), (SEEN, 3.0))
        for name, paper in product(names, PAPERS)
        if contrast(theme[name], theme[paper]) < least
    }
    assert low == {}


def test_both_themes_have_every_colour() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert {*PAPERS, *TEXT, *SEEN} <= LIGHT.keys()


def test_controls_have_no_other_borders() -> None:
    """`--line` is for what only decorates: rules of tables, frames, the grid of a chart."""
    found = set()
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style()):
        kinds = {one.split()[-1].partition(":")[0] for one in selectors.split(",") if one.strip()}
        if kinds & set(CONTROLS):
            found |= set(re.findall(r"border[\w-]*:[^;]*var\((--[\w-]+)\)", body))
    assert found == {"--edge", "--accent"}
