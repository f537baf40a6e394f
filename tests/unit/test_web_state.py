"""A state row as JSON: equal to what transactions were scored with, and a function of state alone."""

import orjson
import pytest

from app.domain.label_outcomes import TerminalStage
from app.domain.transaction import Transaction
from app.domain.transaction_outcomes import CardStage, Enriched
from app.stages.block_rows import row_rules
from app.web.key_state import SHOWN_ENTRIES, key_state, newest_entries
from app.windows.window_row import WindowRow
from tests.builders import T0
from tests.web_worker import HOUR, DictWorker


def state(worker: DictWorker, row: WindowRow, kind: str = "card") -> dict:
    return key_state(
        kind, row.key.decode(), 1, row, worker.catalogue, currency="EUR", minor_unit_digits=2
    )


def test_features_are_those_of_the_newest_transaction() -> None:
    worker = DictWorker()
    rules = row_rules(worker.settings)
    card = WindowRow(b"c1", rules, {}.get)
    terminal = WindowRow(b"t1", rules, {}.get)
    cards = CardStage(worker.catalogue, worker.settings.allowed_lateness, lambda _: 0)
    terminals = TerminalStage(worker.catalogue)
    for number in range(200):
        at = T0 + number * 5 * HOUR + number % 7
        transaction = Transaction(f"x{number}", "c1", "t1", 100 + 37 * number, at, b"{}")
        outcome = cards.apply(transaction, card, 0)
        assert isinstance(outcome, Enriched)
        counted, _ = terminals.apply(terminal, at, transaction.minor, [], transaction.id8)
        scored = dict(zip(worker.catalogue.names, outcome.features + counted, strict=True))
        shown = state(worker, card)["features"] | state(worker, terminal, "terminal")["features"]
        assert shown  # equal to the bit
        assert shown == {name: scored[name] for name in shown}


def test_the_same_state_gives_the_same_bytes() -> None:
    worker = DictWorker()
    row = worker.add("c1", [0, HOUR, 30 * HOUR])
    again = WindowRow.read(b"c1", row_rules(worker.settings), worker.store.get)
    assert orjson.dumps(state(worker, row)) == orjson.dumps(state(worker, again))
    assert worker.url not in orjson.dumps(state(worker, row)).decode()


def test_a_key_that_only_refused_records_have_named() -> None:
    worker = DictWorker()
    row = WindowRow(b"c1", row_rules(worker.settings), {}.get)
    row.last_offset = 7
    shown = state(worker, row)
    assert (shown["entries"], shown["newest_event_time"], shown["last_offset"]) == (0, None, 7)
    assert shown["newest_entries"] == []
    assert {one["average"] for one in shown["windows"]} == {None}


def test_windows_that_miss_entries_say_so() -> None:
    # |--- left ---|  1h, 1d exact |  7d and 30d reach below the floor
    worker = DictWorker(max_entries_per_key=16)
    row = worker.add("c1", [number * 4 * HOUR for number in range(30)])
    shown = state(worker, row)
    assert shown["entries"] == 16
    assert shown["floor_ms"] == T0 + 13 * 4 * HOUR
    assert [one["exact"] for one in shown["windows"]] == [True, True, False, False]
    assert not shown["exact"]


def test_late_entries_are_kept_and_not_counted() -> None:
    worker = DictWorker()
    row = worker.add("c1", [0, HOUR])
    row.insert(T0 - 48 * HOUR, 999, counted=False, id8=b"latelate")
    shown = state(worker, row)
    assert (shown["entries"], shown["late_entries"]) == (3, 1)
    late = shown["newest_entries"][-1]
    assert (late["counted"], late["amount_minor"]) == (False, None)
    assert late["transaction_hash"] == b"latelate".hex()
    assert shown["windows"][-1]["transactions"] == 2


@pytest.mark.parametrize("count", [1, 19, 20, 21, 600, 1500])
def test_newest_entries_without_reading_all(count: int) -> None:
    worker = DictWorker()
    row = worker.add("c1", [number * 1000 for number in range(count)])
    every = list(row.entries())
    assert newest_entries(row, SHOWN_ENTRIES) == every[::-1][:SHOWN_ENTRIES]
    assert list(row.entries()) == every
