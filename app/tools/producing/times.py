"""Moments of files that may name no time zone."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def with_zone(text: str, zone: ZoneInfo | None) -> str:
    """A moment as ISO 8601 in UTC.

    Raises:
        ValueError: it is no moment, or names no zone and none is given; the text is for people.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{text[:40]!r} is not ISO 8601"
        raise ValueError(msg) from None
    if moment.tzinfo is None:
        if zone is None:
            msg = f"{text!r} names no time zone: give --assume-zone, such as UTC"
            raise ValueError(msg)
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
