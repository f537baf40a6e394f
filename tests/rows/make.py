"""Writes down rows of the present release: `python -m tests.rows.make 0.2.0` before it is released.

Later releases must read them for ever (tests/unit/test_released_rows.py), so a file here is never changed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from app.stages.reserved_rows import ModelOffsets, StatePosition
from app.windows.window_row import RowRules, WindowRow
from app.wire.enriched_records import EnrichedItem, encode_item, enriched_message
from tests.builders import T0

HOUR = 3_600_000
#: Small segments and a low cap, so that a few entries show everything that a row can have.
RULES = RowRules(48 * HOUR, 20, settings_hash=0x01020304, segment_entries=4)
Stored = dict[bytes, bytes]


def light(store: Stored) -> WindowRow:
    """A card with three transactions, one of them late, one out of order."""
    row = WindowRow.read(b"light", RULES, store.get)
    for number, (at, counted) in enumerate([(30, True), (29, True), (1, False)]):
        row.insert(T0 + at * HOUR, 1_000 + number, counted=counted, id8=bytes([number]) * 8)
    row.last_offset = 7
    return row


def heavy(store: Stored) -> WindowRow:
    """A card with sealed segments, and more entries than are kept."""
    row = WindowRow.read(b"heavy", RULES, store.get)
    for number in range(27):
        row.insert(T0 + number * HOUR, number, counted=number % 5 > 0, id8=bytes([number]) * 8)
    row.last_offset = 1 << 40
    return row


def described(row: WindowRow) -> dict[str, Any]:
    """Everything that a row says, JSON-ready."""
    return {
        "last_offset": row.last_offset,
        "newest_ms": row.newest_ms,
        "floor_ms": row.floor_ms,
        "entries": [[t, minor, counted, id8.hex()] for t, minor, counted, id8 in row.entries()],
        "windows": [
            list(row.window(T0 + (at - w) * HOUR, T0 + at * HOUR))
            for at in (1, 29, 30)
            for w in (1, 5, 40)
        ],
    }


def item() -> EnrichedItem:
    """A transaction on its way between the stages."""
    return EnrichedItem(
        9, T0 + 1, "tx-9", "c\u00e9", "t1", 1_234, T0, b'{"a":1}', [12.34, 0.1], ["late"]
    )


def main(release: str) -> None:
    """Write the file of a release."""
    rows: Stored = {}
    said = {}
    for name, make in (("light", light), ("heavy", heavy)):
        row = make(rows)
        for key, raw in row.encode():
            if raw is not None:
                rows[key] = raw
        said[name] = described(row)
    position = StatePosition(41, "windows=1h,1d allowed_lateness=1d", {0: 17, 3: 99}).encode()
    pins = ModelOffsets([(0, "a" * 64), (500, "b" * 64)]).encode()
    for key, raw in (position, pins):
        assert raw is not None
        rows[key] = raw
    content = {
        "rows": {key.hex(): raw.hex() for key, raw in sorted(rows.items())},
        "said": said,
        "enriched": enriched_message("transactions", 3, [encode_item(item())]).hex(),
    }
    path = Path(__file__).with_name(f"{release}.json")
    with path.open("x") as file:  # a released one is never written again
        json.dump(content, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
