"""Numbers, moments and foreign text as people read them, on pages and in terminals."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import overload

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KIB = 1024


@overload
def iso(moment_ms: int) -> str: ...
@overload
def iso(moment_ms: None) -> None: ...
@overload
def iso(moment_ms: int | None) -> str | None: ...
def iso(moment_ms: int | None) -> str | None:
    """A moment as ISO 8601 in UTC with milliseconds; None stays None."""
    if moment_ms is None:
        return None
    moment = _EPOCH + timedelta(milliseconds=moment_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def amount(minor: int | None, digits: int, currency: str = "") -> str:
    """Minor units as people write them: 123456 -> 1,234.56 EUR; nothing as a dash."""
    if minor is None:
        return "–"
    text = f"{minor // 10**digits:,}"
    if digits:
        text += f".{minor % 10**digits:0{digits}d}"
    return f"{text} {currency}".strip()


def average(major: float | None, digits: int) -> str:
    """An average in major units, rounded to minor ones; nothing as a dash."""
    return "–" if major is None else f"{major:,.{digits}f}"


def moment(moment_ms: int | None) -> str:
    """A moment to the millisecond, UTC; an unknown one as a dash."""
    text = iso(moment_ms)
    return "–" if text is None else text.replace("T", " ").replace("Z", "")


def second(moment_ms: int | None) -> str:
    """A moment to the second, UTC, for lists; an unknown one as a dash."""
    return moment(moment_ms).split(".", maxsplit=1)[0]


def milliseconds(duration_ms: float | None) -> str:
    """A latency as people say it: 12 ms, 3.4 s, 5.0 min."""
    if duration_ms is None:
        return "–"
    for limit, unit, text in ((1_000, 1, "ms"), (60_000, 1_000, "s"), (3_600_000, 60_000, "min")):
        if duration_ms < limit:
            return f"{duration_ms / unit:.{0 if unit == 1 else 1}f} {text}"
    return f"{duration_ms / 3_600_000:.1f} h"


def number(count: int | None) -> str:
    """A count with thousands apart; an unknown one as a dash."""
    return "–" if count is None else f"{count:,}"


def size(count: int) -> str:
    """Bytes as people say them."""
    if count < _KIB:
        return f"{count} B"
    for power, unit in enumerate(("KiB", "MiB"), 1):
        if count < _KIB ** (power + 1):
            return f"{count / _KIB**power:.1f} {unit}"
    return f"{count / _KIB**3:.1f} GiB"


def value(feature: float | None) -> str:
    """A feature: whole numbers as such, others to six digits; nothing as a dash."""
    if feature is None:
        return "–"
    return f"{feature:,.0f}" if float(feature).is_integer() else f"{feature:,.6g}"


def score(probability: float | None) -> str:
    """A score, for lists: three digits; nothing as a dash."""
    return "–" if probability is None else f"{probability:.3f}"


def in_order(
    features: Mapping[str, float | None], names: Sequence[str]
) -> list[tuple[str, float | None]]:
    """Features in the order of `names`, any others behind by name."""
    order = {name: index for index, name in enumerate(names)}
    return sorted(features.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))


def age(since: float, now: float) -> str:
    """A time span in its two largest units: 3 d 4 h, 12 min 5 s."""
    seconds = max(0, int(now - since))
    parts = [
        (seconds // 86_400, "d"),
        (seconds // 3_600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    ]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2])


def printable(text: str) -> str:
    """Text from elsewhere for a terminal: what is not printable is escaped, so it can steer nothing."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
