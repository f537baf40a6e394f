"""Options of more than one command, and how their values are parsed."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import click

from app.domain.ids import identifier
from app.domain.transaction import DeadRecordError
from app.durations import parse_duration_ms
from app.errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

POSITIVE = click.IntRange(min=1)


class ListByDefault(click.Group):
    """Without a subcommand, `list`: its options may follow the group's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, `list` before them if they begin with an option; a wrong name stays an error."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class FiniteRange(click.FloatRange):
    """As click's, which lets nan through, and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A finite number within the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE_FLOAT = FiniteRange(min=0, min_open=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
note_option = click.option("--note", default="", help="Note for the history.")
examples_option = click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of differences to show.",
)


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator of several options, in the order of the help page."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# ---------------------------------------------------------------------- moments and durations


def moment(text: str, zone: tzinfo = UTC) -> int:
    """A date (its midnight) or time of ISO 8601 as epoch milliseconds.

    Args:
        text: such as 2018-07-25 or 2018-07-25T06:00Z.
        zone: of a text that names none.

    Raises:
        ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    found = found if found.tzinfo else found.replace(tzinfo=zone)
    return (found - _EPOCH) // _MILLISECOND


def moment_of(option: str, text: str, zone: tzinfo = UTC) -> int:
    """As `moment`, of the text behind an option.

    Raises:
        UsageError: it is none.
    """
    try:
        return moment(text, zone)
    except ValueError:
        msg = f"{option} {text}: write a date or a time, such as 2018-07-25 or 2018-07-25T06:00Z"
        raise UsageError(msg) from None


def moment_ms(_context: Any, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a date or a time; UTC where it names no zone."""
    return None if text is None else moment_of(parameter.opts[0], text)


def duration_ms(_context: Any, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a duration as settings write it."""
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        msg = f"{parameter.opts[0]} {text}: {error}"
        raise UsageError(msg) from None


def _moment_or_ago(_context: Any, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a date, a time, or how long before now."""
    if text is None:
        return None
    try:
        return int(time.time() * 1000) - parse_duration_ms(text)
    except ValueError:
        return moment_of(parameter.opts[0], text)


from_option = click.option(
    "--from",
    "from_ms",
    metavar="TIME|DURATION",
    callback=_moment_or_ago,
    help="Start of the event times: a date or time, or how long before now, such as 30d.  [default: everything stored]",
)


# ---------------------------------------------------------------------- ids


def valid_id(text: str, name: str = "transaction_id") -> str:
    """An id of the command line, if a record could have it: Cassandra has errors of its own for others.

    Raises:
        UsageError: none could.
    """
    try:
        return identifier({name: text}, name, b"")
    except DeadRecordError as dead:
        raise UsageError(str(dead)) from None


# ---------------------------------------------------------------------- simulated transactions


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
    return together(
        click.option(
            "--cards", type=POSITIVE, default=cards, show_default=True, help="Number of cards."
        ),
        click.option(
            "--terminals",
            type=POSITIVE,
            default=terminals,
            show_default=True,
            help="Number of terminals.",
        ),
        click.option(
            "--days",
            type=POSITIVE,
            default=days,
            show_default=days is not None,
            help=f"Number of days.{until}",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help=seed),
    )


# ---------------------------------------------------------------------- models


def _numbers_of(
    _context: Any, parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, float]:
    """Parameters of a model; whole numbers stay whole: scikit-learn tells 1 from 1.0."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            msg = f"{parameter.opts[0]} {pair}: write NAME=NUMBER, such as C=1"
            raise UsageError(msg) from None
    return found


parameters_option = click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_numbers_of,
    help="Fix a parameter by its scikit-learn name, such as C=1, instead of tuning it; repeatable.",
)


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of model.

    Raises:
        UsageError: there is no kind with that name.
    """
    from models.training_candidates import KINDS

    if kind not in KINDS:
        msg = f"--kind {kind!r} is unknown; choose one of {', '.join(KINDS)}"
        raise UsageError(msg)
