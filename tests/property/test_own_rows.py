"""Rows with columns of a deployment's own fields: any arrivals, caps, segments and labels, stored and read again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RowFormatError
from app.windows.last_entries import codes_within
from app.windows.row_format import RowRules, max_head_bytes
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import WindowRow
from tests.fakes import Rows

HORIZON = 100
KEY = b"k"
event = st.tuples(
    st.integers(0, 160),  # event time
    st.integers(0, 9),  # amount
    st.integers(-(2**63), 2**63 - 1),  # code of the first field; the second is the event's number
    st.booleans(),  # whether it counts
    st.booleans(),  # whether it gets a label, where there are any
    st.booleans(),  # whether the row is stored and read again
)


@given(
    st.lists(event, max_size=60),
    st.integers(1, 4),
    st.integers(3, 20),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 170), st.integers(1, 120)), min_size=1, max_size=4),
)
def test_each_entry_keeps_what_it_said(
    events: list[tuple[int, int, int, bool, bool, bool]],
    segment: int,
    cap: int,
    terminal: bool,
    windows: list[tuple[int, int]],
) -> None:
    rules = RowRules(HORIZON, max(cap, 2 * segment), 7, segment, own=2)
    if terminal:
        rules = replace(rules, max_waiting=2, label_bytes=50)
    state = Rows()
    row = WindowRow.read(KEY, rules, state.get)
    kept: list[tuple[int, int, int, bool]] = []
    newest = -1
    for number, (at, minor, code, counted, labelled, stored) in enumerate(events):
        id8 = number.to_bytes(8, "big")
        row.insert(at, minor, counted=counted, id8=id8, own=(code, number))
        kept.append((at, code, number, counted))
        kept.sort(key=lambda entry: entry[0])  # equal times in the order of their arrival
        newest = max(newest, at)
        kept = [entry for entry in kept if entry[0] > newest - HORIZON][-rules.max_entries :]
        if terminal and labelled:
            row.label(EntryLabel(at, id8, True, at, 0, b""))
        if stored:
            for group in [row.encode()]:
                state.write(group)
            assert len(state.get(b"h" + KEY) or b"") <= max_head_bytes(rules)
            row = WindowRow.read(KEY, rules, state.get)
        for until, length in windows:
            within = [e for e in kept if until - length < e[0] <= until and e[3]]
            assert codes_within(row, until - length, until, 0) == [e[1] for e in within]
            assert codes_within(row, until - length, until, 1) == [e[2] for e in within]


def test_a_row_of_other_fields_is_refused() -> None:
    state = Rows()
    row = WindowRow.read(KEY, RowRules(HORIZON, 10, own=1), state.get)
    row.insert(5, 1, counted=True, id8=b"12345678", own=(3,))
    state.write(row.encode())
    for own in (0, 2):
        with pytest.raises(RowFormatError, match="FRAUDSTREAM_CATALOGUE_FILE"):
            WindowRow.read(KEY, RowRules(HORIZON, 10, own=own), state.get)


def test_rows_without_own_fields_are_those_of_before() -> None:
    row = WindowRow.read(KEY, RowRules(HORIZON, 10), Rows().get)
    row.insert(5, 1, counted=True, id8=b"12345678")
    ((_, raw),) = row.encode()
    assert raw is not None
    assert raw[8] == 1
