"""Options for reading a file of transactions or labels: the same for every command that reads one."""

import os
import re
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from app.cli.options import moment_of, together
from app.errors import UsageError
from app.settings import Settings

if TYPE_CHECKING:
    from app.ops.files.amount_rounding import Rounding
    from app.ops.files.columns import FileOptions

#: A comma between two pairs, not one within a column's name.
_BETWEEN = re.compile(r",(?=\w+=)")


def _zone(_context: Any, parameter: click.Parameter, name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        msg = f"{parameter.opts[0]} {name!r} is not a time zone; use a name such as UTC or Europe/Paris"
        raise UsageError(msg) from None


def _recipe(_context: Any, parameter: click.Parameter, name: str | None) -> str | None:
    from app.ops.files.dataset_recipes import RECIPES

    if name is not None and name not in RECIPES:
        msg = f"{parameter.opts[0]} {name} is unknown; choose one of {', '.join(RECIPES)}"
        raise UsageError(msg)
    return name


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--recipe",
        metavar="NAME",
        callback=_recipe,
        help="Read a well-known public data set: handbook, sparkov, tabformer, paysim, ieee-cis or creditcard.",
    ),
    click.option(
        "--map",
        "mapping",
        multiple=True,
        metavar="FIELD=COLUMN[,...]",
        help="Take fields from these columns, such as card_id=PAN,amount=VALUE; repeatable. Pairs may also be "
        "given as arguments, without --map.",
    ),
    click.option(
        "--assume-zone",
        metavar="ZONE",
        callback=_zone,
        help="Time zone of times that have none, such as UTC.  [default: refuse such times; recipes: UTC]",
    ),
    click.option(
        "--ambiguous",
        type=click.Choice(["refuse", "earlier", "later"]),
        default="refuse",
        show_default=True,
        help="What to do with a local time that a clock change repeats or skips.",
    ),
    click.option(
        "--time-format",
        metavar="FORMAT",
        help="Format of times in Python's strptime notation, such as '%d/%m/%Y %H:%M'.  "
        "[default: ISO 8601 or epoch milliseconds]",
    ),
    click.option(
        "--time-unit",
        type=click.Choice(["s", "ms", "us", "ns"]),
        help="Unit of numeric times; whole seconds are accepted only with s.  "
        "[default: FRAUDSTREAM_EVENT_TIME_UNIT, or else detected from the size of the number]",
    ),
    click.option(
        "--time-origin",
        metavar="TIME",
        help="With --recipe: start of the data, if the file has only relative times, such as 2024-01-01.",
    ),
    click.option(
        "--round-amounts",
        is_flag=True,
        help="Round amounts to the currency's minor units, half to even.  "
        "[default: refuse amounts with too many decimals]",
    ),
)
file_options = together(*_OPTIONS)
#: Their parameters.
FILE_PARAMETERS = (
    "recipe",
    "mapping",
    "assume_zone",
    "ambiguous",
    "time_format",
    "time_unit",
    "time_origin",
    "round_amounts",
)


def named(parameter: str) -> str:
    """The option of a parameter."""
    return "--map" if parameter == "mapping" else f"--{parameter.replace('_', '-')}"


def given(context: click.Context, parameters: tuple[str, ...]) -> list[str]:
    """Those of the options that were given, as they are written."""
    default = click.core.ParameterSource.DEFAULT
    return [named(name) for name in parameters if context.get_parameter_source(name) is not default]


def mapping_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Field -> column of the pairs behind `--map`, separated by commas or not.

    Raises:
        UsageError: a pair is wrong, or names a field a second time.
    """
    mapping: dict[str, str] = {}
    for pair in (single for several in pairs for single in _BETWEEN.split(several)):
        field, equals, column = pair.partition("=")
        field, column = field.strip(), column.strip()
        if not (field and equals and column):
            msg = f"--map {pair}: write FIELD=COLUMN, such as card_id=CUSTOMER_ID"
            raise UsageError(msg)
        if field in mapping:
            msg = f"--map names {field} twice: {mapping[field]} and {column}"
            raise UsageError(msg)
        mapping[field] = column
    return mapping


def words_and_pairs(
    words: tuple[str, ...], mapped: tuple[str, ...]
) -> tuple[list[str], dict[str, str]]:
    """Words that are no pair, and field -> column of all pairs, whether behind `--map` or behind each other.

    Raises:
        UsageError: a pair is wrong.
    """
    pairs = list(mapped)
    others: list[str] = []
    for word in words:
        field = word.partition("=")[0]
        # not Path.exists: it raises for names that are too long for a file
        loose = "=" in word and field.isidentifier() and not os.path.exists(word)  # noqa: PTH110
        (pairs if loose else others).append(word)
    return others, mapping_of(tuple(pairs))


def file_and_mapping(
    words: tuple[str, ...], mapped: tuple[str, ...]
) -> tuple[Path, dict[str, str]]:
    """The file, and field -> column of all pairs.

    Raises:
        UsageError: there is not one file, or a pair is wrong.
    """
    files, mapping = words_and_pairs(words, mapped)
    if len(files) != 1:
        found = ", ".join(files) if files else "none"
        msg = f"give exactly one FILE; given: {found}"
        raise UsageError(msg)
    return Path(files[0]), mapping


def read_as(
    options: dict[str, Any], mapping: dict[str, str], settings: Settings, command: str
) -> "FileOptions":
    """How a file is read.

    Args:
        options: of the command, `FILE_PARAMETERS` at least.
        mapping: field -> column.
        settings: currency and its digits.
        command: reads a file with a recipe, for messages; `{file}` is its name.

    Raises:
        UsageError: an option does not fit another.
    """
    from app.ops.files.columns import FileOptions
    from app.ops.files.dataset_recipes import RECIPES
    from app.ops.files.file_times import TimeRules, check_pattern

    recipe = RECIPES[options["recipe"]] if options["recipe"] else None
    zone, pattern, origin = options["assume_zone"], options["time_format"], options["time_origin"]
    if origin is not None and not (recipe and recipe.clock):
        counting = ", ".join(each.name for each in RECIPES.values() if each.clock)
        msg = f"--time-origin needs --recipe {counting}: only their times count from an origin"
        raise UsageError(msg)
    if pattern is not None:
        if options["time_unit"]:
            msg = "give --time-format or --time-unit, not both"
            raise UsageError(msg)
        check_pattern(pattern)
    currency = rounding(settings)
    return FileOptions(
        mapping=mapping,
        drop=tuple(options.get("drop", ())),
        keep=tuple(options.get("keep", ())),
        only_known=bool(options.get("only_known")),
        run=options.get("run") or "",
        times=TimeRules(
            zone,
            options["ambiguous"],
            pattern,
            options["time_unit"] or settings.event_time_unit,
            iso=settings.event_time_unit not in {"auto", "ms"},
        ),
        rounding=currency if options["round_amounts"] else None,
        recipe=recipe,
        origin_ms=None if origin is None else moment_of("--time-origin", origin, zone or UTC),
        command=command,
        pseudonym=settings.pseudonyms.of if settings.pseudonyms else None,
    ).with_recipe(currency)


def rounding(settings: Settings) -> "Rounding":
    """Rounds to the minor units of the deployment's currency."""
    from app.ops.files.amount_rounding import Rounding

    return Rounding(settings.currency, settings.minor_unit_digits)
