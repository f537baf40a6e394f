"""The state of a card or terminal as plain JSON: pure, and equal for equal state, byte for byte."""

from collections import deque
from copy import copy
from typing import Any

from app.display import iso
from app.domain.features import Catalogue, window_name
from app.windows.window_row import NEVER, WindowRow

#: Entries shown, newest first.
SHOWN_ENTRIES = 20


def key_state(
    kind: str,
    identifier: str,
    partition: int,
    row: WindowRow,
    catalogue: Catalogue,
    *,
    currency: str,
    minor_unit_digits: int,
) -> dict[str, Any]:
    """What is known of a card or terminal.

    Windows are as of the key's newest event time: for a key whose newest transaction came in order, the
    features are those that it was scored with.

    Args:
        kind: `card` or `terminal`.
        identifier: its id.
        partition: the partition that its row lies in.
        row: its state.
        catalogue: the deployment's features.
        currency: of all amounts.
        minor_unit_digits: digits after the decimal point of that currency.

    Returns:
        JSON-ready values: times as epoch milliseconds and as text, amounts in minor units. Nothing in it
        depends on the worker or on when it is asked.
    """
    unit = 10**minor_unit_digits
    newest = row.newest_ms
    inexact = [] if newest == NEVER else catalogue.inexact(kind, row, newest)
    windows = []
    features: dict[str, float | None] = {}
    for window_ms in catalogue.windows:
        name = window_name(window_ms)
        count, total = (0, 0) if newest == NEVER else row.window(newest - window_ms, newest)
        average = total / (count * unit) if count else None
        windows.append(
            {
                "window": name,
                "transactions": count,
                "amount_minor": total,
                "average": average,
                "exact": newest == NEVER or newest - window_ms >= row.floor_ms,
            }
        )
        features[f"{kind}_count_{name}"] = float(count)
        features[f"{kind}_avg_amount_{name}"] = average
    return {
        "kind": kind,
        "id": identifier,
        "partition": partition,
        "last_offset": row.last_offset,
        "entries": row.count,
        "late_entries": row.tail.zeros + sum(ref.zeros for ref in row.refs),
        "newest_event_time_ms": _known(newest),
        "newest_event_time": iso(_known(newest)),
        "floor_ms": _known(row.floor_ms),
        "floor": iso(_known(row.floor_ms)),
        "exact": not inexact,
        "currency": currency,
        "minor_unit_digits": minor_unit_digits,
        "windows": windows,
        # in the catalogue's order, and only those: an average of a terminal is no feature
        "features": {name: features[name] for name in catalogue.names if name in features},
        "newest_entries": [
            {
                "event_time_ms": event_time_ms,
                "event_time": iso(event_time_ms),
                "amount_minor": minor if counted else None,
                "counted": counted,
                "transaction_hash": id8.hex(),
            }
            for event_time_ms, minor, counted, id8 in newest_entries(row, SHOWN_ENTRIES)
        ],
    }


def newest_entries(row: WindowRow, limit: int) -> list[tuple[int, int, bool, bytes]]:
    """The newest entries of a row, newest first: event time in ms, minor units, counted, id hash."""
    part = copy(row)
    if len(row.tail) >= limit:
        part.refs = []  # a heavy key has thousands of older entries in segments: leave them unread
    return list(reversed(deque(part.entries(), limit)))


def _known(moment_ms: int) -> int | None:
    return None if moment_ms == NEVER else moment_ms
