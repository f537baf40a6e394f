"""What commands that read a file of transactions make of their options."""

from pathlib import Path
from zoneinfo import ZoneInfo

from app.errors import UsageError
from app.settings import Settings
from app.tools.producing.amounts import Rounding


def file_and_mapping(
    words: tuple[str, ...], mapped: tuple[str, ...]
) -> tuple[Path, dict[str, str]]:
    """The file, and field -> column of all pairs, whether behind --map or behind each other.

    Raises:
        UsageError: there is not one file, or a pair is wrong.
    """
    pairs = list(mapped)
    files: list[str] = []
    for word in words:
        field = word.partition("=")[0]
        loose = "=" in word and field.isidentifier() and not Path(word).exists()
        (pairs if loose else files).append(word)
    if len(files) != 1:
        given = ", ".join(files) if files else "none"
        msg = f"one FILE at a time; given: {given}"
        raise UsageError(msg)
    mapping: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            msg = f"--map {pair}: write FIELD=COLUMN, such as card_id=CUSTOMER_ID"
            raise UsageError(msg)
        if field in mapping:
            msg = f"--map names {field} twice: {mapping[field]} and {column}"
            raise UsageError(msg)
        mapping[field] = column
    return Path(files[0]), mapping


def zone_of(name: str | None) -> ZoneInfo | None:
    """The time zone that `--assume-zone` names; None without the option.

    Raises:
        UsageError: there is none of that name.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        msg = f"--assume-zone {name!r} is not a time zone; use a name such as UTC or Europe/Paris"
        raise UsageError(msg) from None


def rounding_of(settings: Settings, *, wanted: bool) -> Rounding | None:
    """What `--round-amounts` asks for; None without the option."""
    return Rounding(settings.currency, settings.minor_unit_digits) if wanted else None
