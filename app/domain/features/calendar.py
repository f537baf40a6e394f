"""Weekend and night: what the time zone of a deployment makes of an event time."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache, partial
from zoneinfo import ZoneInfo

_UTC = ZoneInfo("UTC")
_SATURDAY = 5
#: Until 06:59, local time.
_LAST_NIGHT_HOUR = 6


def calendar_of(timezone: str) -> Callable[[int], tuple[float, float]]:
    """A function of minutes since the epoch that says whether one is on a weekend, and at night (1.0 or 0.0)."""
    return lru_cache(maxsize=1 << 16)(partial(_calendar, ZoneInfo(timezone)))


def _calendar(zone: ZoneInfo, minute: int) -> tuple[float, float]:
    local = (datetime(1970, 1, 1, tzinfo=_UTC) + timedelta(minutes=minute)).astimezone(zone)
    return float(local.weekday() >= _SATURDAY), float(local.hour <= _LAST_NIGHT_HOUR)
