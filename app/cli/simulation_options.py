"""Options of commands that simulate transactions: how many of what, and from which seed."""

from collections.abc import Callable
from typing import Any

import click

POSITIVE = click.IntRange(min=1)


def simulation_options(
    *, cards: int, terminals: int, seed: str, days: int | None = None
) -> Callable[[Any], Any]:
    """Decorator: `--cards`, `--terminals`, `--days` and `--seed`.

    Args:
        cards: how many there are without the option.
        terminals: how many there are without the option.
        seed: help, what equal seeds give.
        days: how many there are without the option; None where the number of transactions may decide.
    """
    until = "" if days else "  [default: 60, or as many as --count needs]"
    options = (
        click.option(
            "--cards", type=POSITIVE, default=cards, show_default=True, help="Cards to simulate."
        ),
        click.option(
            "--terminals",
            type=POSITIVE,
            default=terminals,
            show_default=True,
            help="Terminals to simulate.",
        ),
        click.option(
            "--days",
            type=POSITIVE,
            default=days,
            show_default=days is not None,
            help=f"Days to simulate.{until}",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help=seed),
    )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
