"""No feature looks into the future: what comes after a transaction, or is known too late, changes nothing of it."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.features import Catalogue
from app.domain.label_outcomes import TerminalStage
from app.domain.transaction import Transaction, hash_id
from app.domain.transaction_outcomes import CardStage, Enriched
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import RowRules, WindowRow

pytestmark = pytest.mark.property

DAY = 86_400_000
DELAY = 7 * DAY
START = 1_700_000_000_000
CATALOGUE = Catalogue(
    (DAY // 24, DAY, 30 * DAY), 2, "UTC", ("basic", "handbook", "engineered", "label_free"), DELAY
)
thorough = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "150")),
    derandomize="CI" in os.environ,
    print_blob=True,
)

#: Event time, minor units, and the label that comes some time later: fraud, and how much later; or none.
Event = tuple[int, int, tuple[bool, int] | None]
events = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 90), st.sampled_from([0, 0, 1])).map(
            lambda at: START + at[0] * DAY // 2 + at[1]
        ),
        st.sampled_from([0, 500, 700, 9_000]),
        st.none() | st.tuples(st.booleans(), st.integers(0, 20).map(lambda half: half * DAY // 2)),
    ),
    min_size=1,
    max_size=60,
)


def features_of(history: list[Event], *, seal: int = 2) -> list[tuple[list[float], list[str]]]:
    """Every feature and flag of one card at one terminal, its transactions as they arrive; labels as they come."""
    rules = RowRules(38 * DAY + DELAY, 1_000, segment_entries=seal)
    card_stage, terminal_stage = CardStage(CATALOGUE, DAY, lambda _: 0), TerminalStage(CATALOGUE)
    card, terminal = (WindowRow(key, rules, lambda _: None) for key in (b"c", b"t"))
    waiting: list[tuple[int, EntryLabel]] = []
    found = []
    for number, (t_ms, minor, label) in enumerate(history):
        for known_ms, one in [each for each in waiting if each[0] <= t_ms]:
            terminal_stage.label(terminal, one)
            waiting.remove((known_ms, one))
        name = f"#{number}"
        outcome = card_stage.apply(Transaction(name, "c", "t", minor, t_ms, b"{}"), card, 0)
        assert isinstance(outcome, Enriched)
        values, flags = terminal_stage.apply(terminal, t_ms, minor, outcome.flags, hash_id(name))
        found.append((outcome.features + values, outcome.flags + flags))
        if label is not None:
            one = EntryLabel(t_ms, hash_id(name), label[0], t_ms + label[1], 0, b"")
            waiting.append((t_ms + label[1], one))
    return found


@given(events, st.data())
@thorough
def test_what_comes_later_changes_nothing(history: list[Event], data: st.DataObject) -> None:
    """Removed, shuffled, shifted or other transactions behind a place: the features up to there stay."""
    at = data.draw(st.integers(1, len(history)))
    known = features_of(history)[:at]
    future = history[at:]
    shuffled = future[:]
    random.Random(data.draw(st.integers(0, 99))).shuffle(shuffled)
    shift = data.draw(st.integers(-40, 40)) * DAY
    for other in (
        [],
        shuffled,
        [(t_ms + shift, minor, label) for t_ms, minor, label in future],
        data.draw(events),
    ):
        assert features_of(history[:at] + other)[:at] == known


@given(events, st.data())
@thorough
def test_transactions_that_happened_later_change_nothing(
    history: list[Event], data: st.DataObject
) -> None:
    """Earlier arrivals with a later event time: nothing of them is in a feature, but in what they push out."""
    t_ms, minor, _ = history[-1]
    # less than the allowed lateness ahead: else the last one would be late
    later = [(t_ms + 1 + each[0] % (DAY - 1), each[1], None) for each in data.draw(events)]
    past = [each for each in history[:-1] if each[0] <= t_ms]
    # labels come by event time: those that come with the later ones would be known earlier
    past = [(time, amount, None) for time, amount, _ in past]
    alone = features_of([*past, (t_ms, minor, None)])[-1]
    among = features_of([*past, *later, (t_ms, minor, None)])[-1]
    assert among[0] == alone[0]


@given(events, st.data())
@thorough
def test_labels_younger_than_the_delay_change_nothing(
    history: list[Event], data: st.DataObject
) -> None:
    """Whatever is known of a transaction counts from `t + delay` on, that instant included, and not before."""
    history.sort(key=lambda event: event[0])
    known = features_of(history)
    last_ms = history[-1][0]
    changed = [
        (t_ms, minor, data.draw(st.none() | st.tuples(st.booleans(), st.just(0))))
        if t_ms > last_ms - DELAY
        else (t_ms, minor, label)
        for t_ms, minor, label in history
    ]
    assert features_of(changed)[-1] == known[-1]
    early = [
        (t_ms, minor, label if label is None else (label[0], min(label[1], DELAY) // 2))
        for t_ms, minor, label in history
    ]
    prompt = [
        (t_ms, minor, label if label is None else (label[0], min(label[1], DELAY)))
        for t_ms, minor, label in history
    ]
    assert features_of(early) == features_of(prompt)
