"""The stream's domain against the oracle: the same fate, the same bits, the same flags, the same state.

Windows are milliseconds and segments hold two or three entries, so that edges, seals, halvings and
evictions meet within a few events. After a drawn number of events the touched rows are encoded and stored,
as at the end of a block; some are then read anew, others go on as they are.

CI sets `CI`, and examples are then the same in every run; elsewhere a failure prints its seed.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.features import Catalogue
from app.domain.features.feature_sets import FEATURES, SETS, find_feature
from app.domain.label_outcomes import TerminalStage
from app.domain.prediction_flags import CONFLICTING, LATE
from app.domain.transaction import Transaction, hash_id
from app.domain.transaction_outcomes import CardStage, Duplicate, Enriched, Misrouted
from app.ops.reference import (
    CardReference,
    KeyHistory,
    ReferenceOutcome,
    ReferenceRules,
    TerminalReference,
    WaitingLabel,
    murmur2_partition,
)
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import NEVER, RowRules, WindowRow

pytestmark = pytest.mark.property

Ending = Literal["", "keep", "drop"]
WINDOWS = (3, 10, 25)
LATENESS = 8
HORIZON = WINDOWS[-1] + LATENESS
DELAY, WAIT, MAX_WAITING = 6, 12, 2
#: Distances at which something changes, and their neighbours one millisecond away.
EDGES = sorted({edge + near for edge in (0, *WINDOWS, LATENESS, HORIZON) for near in (-1, 0, 1)})
START = 1_700_000_000_000
ENDINGS: tuple[Ending, ...] = ("", "keep", "drop")

thorough = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "150")),
    derandomize="CI" in os.environ,
    print_blob=True,
)


@dataclass(frozen=True)
class Event:
    """One transaction of a history.

    Attributes:
        card, terminal, name: who, where, which; equal names are equal transaction ids.
        t_ms: event time.
        minor: amount.
        label: None for a transaction; else a label of that one: fraud, and when it was found.
        ends: whether a block ends with it: rows are stored, and kept decoded or read anew (`drop`).
    """

    card: str
    terminal: str | None
    name: str
    t_ms: int
    minor: int
    ends: Ending = ""
    label: tuple[bool, int] | None = None


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events that stand at the edges of earlier ones more often than chance would have it."""
    events: list[Event] = []
    size = draw(st.integers(1, 60))
    for number in range(size):
        anchor = draw(st.sampled_from(events)).t_ms if events else START
        newest = max((event.t_ms for event in events), default=START)
        t_ms = draw(
            st.one_of(
                st.integers(0, 4).map(newest.__add__),
                st.sampled_from(EDGES).map(anchor.__add__),
                st.sampled_from(EDGES).map(anchor.__sub__),
                st.sampled_from(EDGES).map(newest.__sub__),
                st.integers(newest - 2 * HORIZON, newest + 2 * HORIZON),
            )
        )
        name = f"#{number}"
        again = draw(st.integers(0, 9)) if events else 9
        if again <= 1:  # a used id, with another time and amount as a rule
            name = draw(st.sampled_from(events)).name
        if again == 2:  # an earlier one once more: as it was, or with one thing changed
            of = draw(st.sampled_from(events))
            change = draw(
                st.sampled_from([{}, {}, {"t_ms": t_ms}, {"minor": 8}, {"terminal": "U"}])
            )
            events.append(replace(of, label=None, ends=draw(st.sampled_from(ENDINGS)), **change))
            continue
        if events and draw(st.integers(0, 3)) == 0:  # of any of them, or of one that is to come
            of = draw(st.sampled_from(events))
            verdict = draw(st.booleans()), START + draw(st.integers(0, 3))
            later = f"#{number + draw(st.integers(1, 3))}"
            which = draw(st.sampled_from([of.name, of.name, later]))
            events.append(
                replace(of, name=which, label=verdict, ends=draw(st.sampled_from(ENDINGS)))
            )
            continue
        events.append(
            Event(
                card=draw(st.sampled_from("AAAB")),
                terminal=draw(st.sampled_from(["T", "T", "T", "U", None])),
                name=name,
                t_ms=t_ms,
                minor=draw(st.sampled_from([0, 1, 7, 999, 10**11])),
                ends=draw(st.sampled_from(ENDINGS)),
            )
        )
    return events


class Rows:
    """Rows as a block has them: decoded once, encoded at its end."""

    def __init__(self, rules: RowRules) -> None:
        self.stored: dict[bytes, bytes] = {}
        self._rules = rules
        self._open: dict[str, WindowRow] = {}

    def of(self, key: str) -> WindowRow:
        if key not in self._open:
            self._open[key] = WindowRow.read(key.encode(), self._rules, self.stored.get)
        return self._open[key]

    def end_block(self, ending: Ending) -> None:
        if not ending:
            return
        for row in self._open.values():
            for key, raw in row.encode():
                if raw is None:
                    self.stored.pop(key, None)
                else:
                    self.stored[key] = raw
        if ending == "drop":
            self._open.clear()


def stages(
    windows: tuple[int, ...],
    lateness: int,
    cap: int,
    segment: int,
    sets: tuple[str, ...] = ("basic",),
    delay: int = DELAY,
) -> tuple[Catalogue, ReferenceRules, RowRules]:
    catalogue = Catalogue(windows, 2, "Europe/Paris", sets, delay)
    names = () if sets == ("basic",) else catalogue.names
    rules = ReferenceRules(
        windows, lateness, cap, 2, "Europe/Paris", delay, WAIT, MAX_WAITING, names
    )
    reach = max(windows[-1], catalogue.card_reach_ms)
    return catalogue, rules, RowRules(reach + lateness, cap, segment_entries=segment)


def same_state(row: WindowRow, history: KeyHistory) -> None:
    """The decoded row holds exactly what the oracle keeps."""
    ids = [hash_id(name) if name else None for name in history.ids]
    entries = list(row.entries())
    assert [e[0] for e in entries] == history.times
    assert list(row.labels()) == history.labels
    assert [e[1] for e in entries] == [
        minor * weight for minor, weight in zip(history.minors, history.weights, strict=True)
    ]
    assert [int(e[2]) for e in entries] == history.weights
    assert [e[3] if i else None for e, i in zip(entries, ids, strict=True)] == ids
    if row.rules.keeps_aside:
        for name in set(history.ids):
            found = [
                pair for part, start in row.parts() for pair in part.same_id(hash_id(name), start)
            ]
            assert found == history.same_id(name, START - 1000 * DAYS)
    assert row.count == len(history.times)
    assert row.newest_ms == (NEVER if history.newest_ms is None else history.newest_ms)
    assert row.floor_ms == (NEVER if history.floor_ms is None else history.floor_ms)


def play(
    events: Sequence[Event],
    cap: int,
    segment: int,
    sets: tuple[str, ...] = ("basic",),
    delay: int = DELAY,
    **span: tuple[int, ...],
) -> None:
    """Both sides over the same events; cards first, then terminals over what was scored."""
    windows, lateness = span.get("windows", WINDOWS), span.get("lateness", (LATENESS,))[0]
    catalogue, rules, row_rules = stages(windows, lateness, cap, segment, sets, delay)
    card_stage = CardStage(catalogue, lateness, lambda key: 0)
    terminal_stage = TerminalStage(catalogue, WAIT, MAX_WAITING)
    cards, terminals = CardReference(rules), TerminalReference(rules)
    card_rows = Rows(row_rules)
    horizon = max(windows[-1] + delay, catalogue.terminal_reach_ms) + lateness
    terminal_rows = Rows(replace(row_rules, horizon_ms=horizon, max_waiting=MAX_WAITING))
    given_up = set()
    for number, event in enumerate(events):
        if event.label is not None:
            if event.terminal is not None:
                row = terminal_rows.of(event.terminal)
                waits = WaitingLabel(
                    event.name, event.t_ms, *event.label, number, ("labels", 0, number)
                )
                label = EntryLabel(
                    event.t_ms, hash_id(event.name), *event.label, number, b"%d" % number
                )
                terminals.label(event.terminal, waits)
                terminal_stage.label(row, label)
                given_up |= {int(one.source) for one in terminal_stage.given_up(row, number)}
            terminal_rows.end_block(event.ends)
            continue
        transaction = Transaction(
            event.name, event.card, event.terminal, event.minor, event.t_ms, b"{}"
        )
        outcome = card_stage.apply(transaction, card_rows.of(event.card), 0)
        verdict = cards.apply(event.card, event.name, event.t_ms, event.minor)
        if verdict.became is ReferenceOutcome.DUPLICATE:
            assert isinstance(outcome, Duplicate)
            continue
        assert isinstance(outcome, Enriched)
        assert outcome.flags == list(verdict.flags)
        assert (LATE in outcome.flags) == (verdict.became is ReferenceOutcome.LATE)
        assert (CONFLICTING in outcome.flags) == (verdict.became is ReferenceOutcome.CONFLICTING)
        row = None if event.terminal is None else terminal_rows.of(event.terminal)
        if row is not None:
            given_up |= {int(one.source) for one in terminal_stage.given_up(row, number)}
        counts, flags = terminal_stage.apply(
            row, event.t_ms, event.minor, outcome.flags, transaction.id8
        )
        weight = 1 if verdict.became is ReferenceOutcome.SCORED else 0
        at_terminal = terminals.apply(
            event.terminal,
            event.t_ms,
            weight,
            event.name,
            number,
            minor=event.minor,
            high="high_amount" in verdict.flags,
            conflicting=verdict.became is ReferenceOutcome.CONFLICTING,
        )
        assert flags == list(at_terminal.flags)
        expected = verdict.features | at_terminal.features
        assert [*outcome.features, *counts] == [expected[name] for name in catalogue.names]
        card_rows.end_block(event.ends)
        terminal_rows.end_block(event.ends)
    assert given_up == {offset for _, _, offset in terminals.given_up}
    for name, history in cards.cards.items():
        same_state(card_rows.of(name), history)
    for name, history in terminals.terminals.items():
        same_state(terminal_rows.of(name), history)


@given(histories(), st.sampled_from([1, 2, 5, 9, 1_000]), st.sampled_from([1, 2, 3, 16]))
@example(  # a late entry is the oldest of a segment whose first has left: nothing counts before 12
    [Event("A", None, f"#{t}", START + t, 1) for t in (0, 20, 21, 22, 10, 12)], 4, 2
)
@example([Event("A", None, "a", START, 1), Event("A", None, "a", START, 1, "drop")], 1, 1)
@thorough
def test_the_domain_equals_the_oracle(events: list[Event], cap: int, segment: int) -> None:
    play(events, cap, segment)


DAYS = 86_400_000
IN_SETS = {
    find_feature(name.format(w="1d", longest="7d"))[0]
    for one in SETS.values()
    for name in one.names
}
#: Features of no set, one window each; a day and half a day are windows of no set either.
SINGLE = (
    "card_count_12h",
    *(
        feature.name.format(w=window)
        for feature, window in zip(
            (one for one in FEATURES if one not in IN_SETS), cycle(("1d", "7d", "12h"))
        )
    ),
)


@st.composite
def months(draw: st.DrawFn) -> list[Event]:
    """Histories in days instead of milliseconds, still at the edges of one another or a millisecond beside them.

    Most labels say fraud, most transactions meet at one terminal: streaks and high amounts come about.
    """
    events = draw(histories())
    beside = draw(st.lists(st.sampled_from([0, 0, 0, -1, 1]), min_size=7, max_size=7))
    return [
        # half a day each; a label moves with its transaction
        replace(
            event,
            t_ms=START + (event.t_ms - START) * DAYS // 2 + beside[(event.t_ms - START) % 7],
        )
        for event in events
    ]


@given(
    months(),
    st.sampled_from([1, 2, 5, 9, 25, 1_000]),
    st.sampled_from([1, 2, 3, 16]),
    st.sampled_from(
        [
            ("handbook",),
            ("engineered",),
            ("label_free",),
            ("basic", "handbook", "engineered"),
            SINGLE,
            ("basic", *SINGLE),
        ]
    ),
)
@thorough
def test_every_set_and_single_feature_equals_the_reference(
    events: list[Event], cap: int, segment: int, sets: tuple[str, ...]
) -> None:
    days = {"windows": (DAYS // 24, DAYS, 7 * DAYS), "lateness": (4 * DAYS,)}
    play(events, cap, segment, sets, DELAY * DAYS // 2, **days)


@given(histories(), st.sampled_from([2, 5, 9, 1_000]), st.sampled_from([1, 2, 3]))
@thorough
def test_rows_do_not_depend_on_where_blocks_end(
    events: list[Event], cap: int, segment: int
) -> None:
    catalogue, _, row_rules = stages(WINDOWS, LATENESS, cap, segment)
    stage = CardStage(catalogue, LATENESS, lambda key: 0)

    def run(always: Ending | None) -> dict[bytes, bytes]:
        rows = Rows(row_rules)
        for offset, event in enumerate(events):
            if event.label is not None:
                continue
            row = rows.of(event.card)
            row.last_offset = offset
            stage.apply(
                Transaction(event.name, event.card, None, event.minor, event.t_ms, b"{}"), row, 0
            )
            rows.end_block(event.ends if always is None else always)
        rows.end_block("drop")
        return rows.stored

    one_block = contents(run(""))
    for ending in (None, "keep", "drop"):
        assert contents(run(ending)) == one_block


def contents(stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Rows without their offsets: an untouched segment keeps that of its last change."""
    return {key: raw[8:] for key, raw in stored.items()}


@pytest.mark.parametrize("order", [0.0, 0.2, 1.0])
def test_a_hot_card_and_terminal_in_many_segments(order: float) -> None:
    """Months of one busy key: a share `order` of the events arrives days out of place."""
    day = 86_400_000
    windows = (3_600_000, day, 7 * day, 30 * day)
    seed = int(os.environ.get("FRAUDSTREAM_TEST_SEED", "1"))
    print(f"FRAUDSTREAM_TEST_SEED={seed}")
    numbers = random.Random(f"{seed} {order}")
    events, t_ms = [], START
    for number in range(2_500):
        t_ms += numbers.choice((0, 1, 60_000, 1_800_000, 7_200_000))
        shift = numbers.randrange(-3 * day, 3 * day) if numbers.random() < order else 0
        ending: Ending = numbers.choice(ENDINGS) if numbers.random() < 0.1 else ""
        name = f"#{number if numbers.random() > 0.02 else numbers.randrange(number + 1)}"
        events.append(Event("A", "T", name, t_ms + shift, numbers.randrange(10_000), ending))
    play(events, 700, 32, windows=windows, lateness=(day,))


@pytest.mark.parametrize("order", [0.0, 0.3])
@pytest.mark.parametrize("cap", [40, 700])
def test_a_busy_card_and_terminal_with_labels(order: float, cap: int) -> None:
    """Every feature over months in segments: labels come days later, some of them twice, some never."""
    day = 86_400_000
    seed = int(os.environ.get("FRAUDSTREAM_TEST_SEED", "1"))
    print(f"FRAUDSTREAM_TEST_SEED={seed}")
    numbers = random.Random(f"{seed} {order} {cap}")
    events: list[Event] = []
    due: list[tuple[int, Event]] = []
    t_ms = START
    for number in range(1_500):
        t_ms += numbers.choice((0, 1, 60_000, 1_800_000, 7_200_000, 20_000_000))
        shift = numbers.randrange(-3 * day, day) if numbers.random() < order else 0
        ending: Ending = numbers.choice(ENDINGS) if numbers.random() < 0.1 else ""
        while due and due[0][0] <= t_ms:
            _, label = due.pop(0)
            events.append(label)
        minor = numbers.choice((500, 700, 1_000, 9_000, 0))
        event = Event("A", "T", f"#{number}", t_ms + shift, minor, ending)
        events.append(event)
        if numbers.random() < 0.8:
            fraud = number // 40 % 3 == 0 and numbers.random() < 0.9
            label = replace(event, label=(fraud, t_ms))
            due.append((t_ms + numbers.randrange(12 * day), label))
            due.sort(key=lambda one: one[0])
    sets = ("basic", "handbook", "engineered", "label_free")
    windows = (3_600_000, day, 7 * day, 30 * day)
    play(events, cap, 32, sets, 7 * day, windows=windows, lateness=(day,))


def test_an_id_across_two_entries_is_nobodys() -> None:
    """Ids stand side by side in the row: only whole ones count."""
    row = WindowRow.read(b"c", RowRules(HORIZON, 10, segment_entries=2), lambda _: None)
    for t_ms, id8 in enumerate((b"abcdefgh", b"ijklmnop", b"qrstuvwx", b"ABCDEFGH")):
        row.insert(START + t_ms, 1, counted=True, id8=id8)
    assert row.has(b"abcdefgh")
    assert row.has(b"ABCDEFGH")
    assert not row.has(b"efghijkl")
    assert not row.has(b"uvwxABCD")


@given(st.binary(min_size=1, max_size=20), st.integers(1, 9), st.integers(0, 8))
@thorough
def test_a_card_is_moved_exactly_when_it_stands_in_another_partition(
    key: bytes, partitions: int, partition: int
) -> None:
    catalogue, _, row_rules = stages(WINDOWS, LATENESS, 10, 2)
    stage = CardStage(catalogue, LATENESS, lambda key: murmur2_partition(key, partitions))
    row = WindowRow.read(key, row_rules, lambda _: None)
    transaction = Transaction("t", "c", None, 1, START, b"{}")
    for _ in range(2):  # a moved one leaves nothing behind that would make the second at home
        outcome = stage.apply(transaction, row, partition)
        at_home = murmur2_partition(key, partitions) == partition
        assert isinstance(outcome, Misrouted) != at_home
