"""How the cost of an event grows with a card's history and with the number of windows; in process, no servers.

Time is CPU time of the thread: what else runs on the machine disturbs it little.
"""

import time
from collections.abc import Iterator
from typing import Any

from app.domain.features import Catalogue
from app.domain.transaction import Transaction
from app.domain.transaction_outcomes import CardStage
from app.lab.bench.filled_state import row_with_past
from app.settings import Settings
from app.stages.block_rows import row_rules
from app.stages.deployed_features import catalogue_of

HISTORIES = (10, 100, 1_000, 10_000)
WINDOW_COUNTS = (3, 6, 12)
_EVENTS = 2_000
#: Cards take turns: so many that a history hardly grows while it is measured, and memory holds them.
_MOST_CARDS, _MOST_ENTRIES = 400, 100_000
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_NOW_MS = 1_790_000_000_000


def by_history(settings: Settings) -> Iterator[dict[str, Any]]:
    """Microseconds and changelog bytes an event, for cards with so many entries in 30 days."""
    catalogue = catalogue_of(settings)
    for entries in HISTORIES:
        yield {"entries a card": entries, **_cost(settings, catalogue, entries)}


def by_windows(settings: Settings) -> Iterator[dict[str, Any]]:
    """The same for so many windows, with 60 entries a card."""
    for count in WINDOW_COUNTS:
        windows = tuple(
            _HOUR_MS + step * (30 * _DAY_MS - _HOUR_MS) // (count - 1) for step in range(count)
        )
        catalogue = Catalogue(windows, settings.minor_unit_digits, settings.timezone)
        yield {"windows": count, **_cost(settings, catalogue, 60)}


def _cost(settings: Settings, catalogue: Catalogue, entries: int) -> dict[str, Any]:
    stage = CardStage(catalogue, settings.allowed_lateness, lambda _: 0)
    cards = min(_MOST_CARDS, _MOST_ENTRIES // entries)
    rules = row_rules(settings)
    rows = [row_with_past(rules, b"C%05d" % number, entries, _NOW_MS) for number in range(cards)]
    for row in rows:
        row.encode()  # what is new of the history is written once, and not counted below
    written = 0
    began = time.thread_time()
    for number in range(_EVENTS):
        row = rows[number % cards]
        at, name = _NOW_MS + number // cards, row.key.decode()
        stage.apply(Transaction(f"new-{number}", name, None, 1_234, at, b"{}"), row, 0)
        written += sum(len(raw or b"") for _, raw in row.encode())
    took = time.thread_time() - began
    return {
        "us per event": round(took / _EVENTS * 1e6, 1),
        "bytes written per event": round(written / _EVENTS),
    }
