"""Questions about the last few entries of a card or terminal: bounded, however many it has.

So many entries are looked at, and none at or before `after_ms`; those that do not count, or have no label, are
looked at as well and left out.
"""

from app.domain.window_row import WindowRow


def last_amounts(
    row: WindowRow, after_ms: int, until_ms: int, number: int
) -> list[tuple[int, int]]:
    """Of the last `number` entries in (after_ms, until_ms], those that count: event time, minor units; oldest first."""
    found: list[tuple[int, int]] = []
    for entries, first, end in row.last_parts(after_ms, until_ms, number):
        found[:0] = entries.amounts(first, end)
    return found


def last_labels(
    row: WindowRow, after_ms: int, until_ms: int, number: int
) -> list[tuple[int, bool]]:
    """Of the last `number` entries in (after_ms, until_ms], those that count and have a label; newest first.

    Each is its event time and whether it was fraud.
    """
    if not row.knows_labels:
        return []
    found: list[tuple[int, bool]] = []
    for entries, first, end in row.last_parts(after_ms, until_ms, number):
        if entries.labelled is not None:
            found += entries.known(first, end)
    return found


def has_last(row: WindowRow, after_ms: int, until_ms: int, number: int) -> bool:
    """Whether the other two miss nothing that has left the row.

    Either nothing of (after_ms, until_ms] has left, or as many entries as are looked at are newer than all that has.
    """
    floor = row.floor_ms
    if after_ms >= floor:
        return True
    parts = row.last_parts(floor, until_ms, number)
    return sum(end - first for _, first, end in parts) >= number
