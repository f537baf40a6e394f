"""Rows and messages of every released version are still read: an upgrade needs no new state.

The files are made by `python -m tests.rows.make RELEASE` and never changed.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.stages.reserved_rows import PINS_KEY, ModelOffsets, StatePosition
from app.windows.row_format import head_key
from app.windows.window_row import WindowRow
from app.wire.enriched_records import decode_enriched
from tests.builders import T0
from tests.fakes import Rows
from tests.rows.make import HOUR, RULES, described, item

FOLDER = Path(__file__).parents[1] / "rows"
ROOT = Path(__file__).parents[2]
RELEASES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(params=RELEASES)
def kept(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{request.param}.json").read_text())
    return found


def state(kept: dict[str, Any]) -> Rows:
    return Rows({bytes.fromhex(key): bytes.fromhex(raw) for key, raw in kept["rows"].items()})


def test_every_release_has_its_rows() -> None:
    released = re.findall(r"^## (\d[\w.]*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    assert set(released) == set(RELEASES)


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_a_released_row_says_what_it_said(kept: dict[str, Any], name: str) -> None:
    row = WindowRow.read(name.encode(), RULES, state(kept).get)
    assert described(row) == kept["said"][name]


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_a_released_row_is_gone_on_with(kept: dict[str, Any], name: str) -> None:
    """Read, changed, written and read again; every entry of before is there."""
    rows = state(kept)
    row = WindowRow.read(name.encode(), RULES, rows.get)
    before = list(row.entries())
    row.insert(T0 + 31 * HOUR, 5, counted=True, id8=b"new id 8")
    row.last_offset += 1
    rows.write(row.encode())
    again = WindowRow.read(name.encode(), RULES, rows.get)
    *others, new = again.entries()
    assert others == before[len(before) - len(others) :]
    assert len(others) >= min(len(before), RULES.max_entries - 1)  # at the cap, old ones leave
    assert new == (T0 + 31 * HOUR, 5, True, b"new id 8")
    assert again.has(b"new id 8")
    assert again.last_offset == kept["said"][name]["last_offset"] + 1
    assert head_key(name.encode()) in rows.rows


def test_released_positions_pins_and_messages(kept: dict[str, Any]) -> None:
    rows = state(kept)
    position = StatePosition.read(rows, "")
    assert (position.last_offset, position.seen) == (41, {0: 17, 3: 99})
    assert position.settings == "windows=1h,1d allowed_lateness=1d"
    pins = ModelOffsets.read(rows.get(PINS_KEY))
    assert pins.pins == [(0, "a" * 64), (500, "b" * 64)]
    batch = decode_enriched(bytes.fromhex(kept["enriched"]))
    assert (batch.topic, batch.partition, batch.items) == ("transactions", 3, [item()])
