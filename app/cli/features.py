"""`fraudstream features`: every feature that can be computed, and what it means."""

import json
from collections.abc import Iterator
from typing import Any

import click

from app.cli.options import json_option
from app.domain.features.card import CARD_TERMS
from app.domain.features.feature import Feature
from app.domain.features.feature_sets import FEATURES, SETS
from app.domain.features.terminal import TERMINAL_TERMS

#: What the formulas use, defined once.
TERMS = CARD_TERMS | TERMINAL_TERMS


@click.command(
    epilog="\b\nExamples:  fraudstream features\n"
    "           FRAUDSTREAM_FEATURES=basic,card_max_amount_1h fraudstream config --changed"
)
@json_option
@click.option("--markdown", is_flag=True, help="Print as Markdown: docs/features.md.")
def features(as_json: bool, markdown: bool) -> None:
    """List the features: unit, formula, source and sets. `{w}` stands for a window, such as 90m or 7d.

    FRAUDSTREAM_FEATURES takes names of sets and of single features, comma-separated.
    """
    if as_json:
        click.echo(json.dumps([_fields(feature) for feature in FEATURES]))
    elif markdown:
        click.echo(_page(), nl=False)
    else:
        for feature in FEATURES:
            fields = _fields(feature)
            click.echo(f"{feature.name}  ({feature.unit})")
            click.echo(click.style(f"    {fields['formula']}", dim=True))
            if fields["sets"]:
                click.echo(click.style(f"    in {', '.join(fields['sets'])}", dim=True))
        click.echo("\nTerms in the formulas")
        for term, meaning in TERMS.items():
            click.echo(f"{term}\n    {click.style(meaning, dim=True)}")


def _fields(feature: Feature) -> dict[str, Any]:
    sets = [
        name
        for name, chosen in SETS.items()
        if any(_is_of(feature, template) for template in chosen.names)
    ]
    formula = feature.formula.replace("{longest}", "the longest window")
    return {
        "name": feature.name,
        "unit": feature.unit,
        "formula": formula,
        "state": feature.stage,
        "source": feature.source,
        "sets": sets,
    }


def _is_of(feature: Feature, template: str) -> bool:
    name = template.format(w="1d", longest="1d")
    return name == feature.name or (
        feature.windowed
        and name.startswith(f"{feature.family}_")
        and _ends_in_window(name, feature)
    )


def _ends_in_window(name: str, feature: Feature) -> bool:
    return name.removeprefix(f"{feature.family}_")[:1].isdigit()


def _page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (
        "# Features",
        "",
        "Every feature that can be computed. `FRAUDSTREAM_FEATURES` takes the names of sets and of single features,",
        "comma-separated: `basic,card_max_amount_1h`. This page is the output of `fraudstream features --markdown`.",
        "",
        "`t` is the event time of the transaction and `w` a window, `(t - w, t]`. `{w}` in a name stands for the",
        "window's length, such as `90m` or `7d`. `delay` is `FRAUDSTREAM_LABEL_DELAY`.",
        "",
        "A label says whether an earlier transaction was fraud or genuine. Features use it once that transaction is",
        "at least `delay` old, and only if the label precedes the current transaction on the topic `enriched`: it is",
        "then a *known label*. Without a known label, an earlier transaction counts as genuine in",
        "`terminal_risk_{w}`, and is left out of the recent labels.",
        "",
        "Terms in the formulas:",
        "",
        *(f"- **{term}**: {meaning}." for term, meaning in TERMS.items()),
        "",
        "| feature | unit | formula | source | sets |",
        "|---|---|---|---|---|",
    )
    for feature in FEATURES:
        fields = _fields(feature)
        sets = ", ".join(fields["sets"])
        yield f"| `{feature.name}` | {feature.unit} | {fields['formula']} | {feature.source} | {sets} |"
    yield from (
        "",
        "## Sets",
        "",
        "| set | version | features |",
        "|---|---|---|",
    )
    for name, chosen in SETS.items():
        listed = ", ".join(f"`{each}`" for each in chosen.names)
        yield f"| `{name}` | {chosen.version} | {listed} |"
    yield from (
        "",
        "In this table, `{w}` stands for each window of `FRAUDSTREAM_WINDOWS`, and `{longest}` for the longest one.",
    )
