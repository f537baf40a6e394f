"""The oracle itself, on timelines small enough to check by eye.

One step is an hour, `w` the window (`5h` unless drawn otherwise), allowed lateness `2h`, and amounts are
in whole units, so that an average can be read off the picture.
"""

import random

import pytest
from aiokafka.partitioner import murmur2 as kafkas_murmur2

from app.domain.features import Catalogue
from app.ops.reference import (
    CardReference,
    KeyHistory,
    ReferenceOutcome,
    ReferenceResult,
    ReferenceRules,
    TerminalReference,
    murmur2,
    murmur2_partition,
)

HOUR = 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR
RULES = ReferenceRules(windows_ms=(5 * HOUR,), allowed_lateness_ms=2 * HOUR, max_entries=1_000)


def oracle(**changes: int | tuple[int, ...]) -> CardReference:
    return CardReference(ReferenceRules(**{**vars(RULES), **changes}))  # type: ignore[arg-type]


def buy(
    cards: CardReference, hour: float, units: int = 1, name: str = "", card: str = "c"
) -> ReferenceResult:
    """One transaction of so many units at that hour; its id is its number unless named."""
    t_ms = START + int(hour * HOUR)
    buy.number += 1  # type: ignore[attr-defined]
    return cards.apply(card, name or f"#{buy.number}", t_ms, units * 100)  # type: ignore[attr-defined]


buy.number = 0  # type: ignore[attr-defined]


def count(verdict: ReferenceResult, window: str = "5h") -> float:
    return verdict.features[f"card_count_{window}"]


class TestWindow:
    def test_the_left_edge_is_outside_and_the_right_edge_inside(self) -> None:
        # hours   0    1    2    3    4    5
        #         a    b                   c
        #         (------------- 5h -------]
        cards = oracle()
        buy(cards, 0)
        buy(cards, 1)
        assert count(buy(cards, 5)) == 2

    @pytest.mark.parametrize(("offset_ms", "expected"), [(-1, 1), (0, 1), (1, 2)])
    def test_one_millisecond_decides_at_the_left_edge(self, offset_ms: int, expected: int) -> None:
        cards = oracle()
        cards.apply("c", "a", START + offset_ms, 100)
        assert cards.apply("c", "b", START + 5 * HOUR, 100).features["card_count_5h"] == expected

    def test_equal_times_count_in_the_order_of_arrival(self) -> None:
        # hours   0
        #         a
        #         b     sees a and itself
        #         c     sees all three
        cards = oracle()
        assert [count(buy(cards, 0)) for _ in range(3)] == [1, 2, 3]

    def test_what_comes_later_in_event_time_is_not_counted(self) -> None:
        # hours      0    1    2
        # arrival 1            a
        # arrival 2       b          (out of order) sees only itself
        cards = oracle()
        buy(cards, 2)
        verdict = buy(cards, 1)
        assert count(verdict) == 1
        assert verdict.flags == ("out_of_order",)

    def test_an_out_of_order_one_counts_for_those_after_it(self) -> None:
        cards = oracle()
        buy(cards, 2)
        buy(cards, 1)
        assert count(buy(cards, 2)) == 3

    def test_an_equal_newest_is_in_order(self) -> None:
        cards = oracle()
        buy(cards, 2)
        assert buy(cards, 2).flags == ()

    def test_the_average_is_one_division_of_integers(self) -> None:
        # 0.10 + 0.20 + 0.30 in floats would be 0.6000000000000001
        cards = oracle()
        for minor in (10, 20):
            cards.apply("c", str(minor), START, minor)
        verdict = cards.apply("c", "last", START, 30)
        assert verdict.features["card_avg_amount_5h"] == 60 / 300
        assert verdict.features["amount_over_card_avg_5h"] == 30 * 3 / 60

    def test_each_window_has_its_own_edge(self) -> None:
        # hours   0    1    2    3    4    5    6
        #         a              b              c
        #                        (---- 3h ------]   1 in 3h (b is on the edge)
        #              (------------- 5h --------]   2 in 5h
        #         (------------------ 7h --------]   3 in 7h
        cards = oracle(windows_ms=(3 * HOUR, 5 * HOUR, 7 * HOUR))
        buy(cards, 0)
        buy(cards, 3)
        verdict = buy(cards, 6)
        assert [count(verdict, w) for w in ("3h", "5h", "7h")] == [1, 2, 3]

    def test_cards_do_not_see_each_other(self) -> None:
        cards = oracle()
        buy(cards, 0, card="x")
        assert count(buy(cards, 0, card="y")) == 1

    def test_spending_nothing_has_the_ratio_one(self) -> None:
        assert buy(oracle(), 0, units=0).features["amount_over_card_avg_5h"] == 1.0


class TestSinceLast:
    def test_the_first_has_the_longest_window(self) -> None:
        assert buy(oracle(), 0).features["seconds_since_last"] == 5 * 3600

    def test_it_is_capped_at_the_longest_window(self) -> None:
        cards = oracle()
        buy(cards, 0)
        assert buy(cards, 6).features["seconds_since_last"] == 5 * 3600

    def test_it_looks_back_in_event_time_only(self) -> None:
        # hours      0    1    2    3
        # arrival 1  a
        # arrival 2                 b
        # arrival 3            c         2 h after a, though b came last
        cards = oracle()
        buy(cards, 0)
        buy(cards, 3)
        assert buy(cards, 2).features["seconds_since_last"] == 2 * 3600

    def test_a_late_one_does_not_count_as_the_last(self) -> None:
        # hours      0    1    2    3    4
        # arrival 1                 a
        # arrival 2  b  (late)
        # arrival 3       c               sees nothing at or before it that counts
        cards = oracle()
        buy(cards, 3)
        assert buy(cards, 0).became is ReferenceOutcome.LATE
        assert buy(cards, 1).features["seconds_since_last"] == 5 * 3600

    def test_milliseconds_are_fractions(self) -> None:
        cards = oracle()
        cards.apply("c", "a", START, 1)
        assert cards.apply("c", "b", START + 1, 1).features["seconds_since_last"] == 0.001


class TestLateness:
    @pytest.mark.parametrize(
        ("behind_ms", "became"),
        [
            (2 * HOUR - 1, ReferenceOutcome.SCORED),
            (2 * HOUR, ReferenceOutcome.SCORED),
            (2 * HOUR + 1, ReferenceOutcome.LATE),
        ],
    )
    def test_beyond_the_allowed_lateness_it_is_late(
        self, behind_ms: int, became: ReferenceOutcome
    ) -> None:
        cards = oracle()
        cards.apply("c", "a", START, 100)
        assert cards.apply("c", "b", START - behind_ms, 100).became is became

    def test_a_late_one_sees_what_is_kept_and_itself_and_is_never_counted(self) -> None:
        # hours      0    1    2    3    4    5
        # arrival 1  a
        # arrival 2                           b
        # arrival 3       c (late: sees a and itself)
        # arrival 4            d (late: sees a and itself, not c)
        # arrival 5                           e  sees b and itself; a is on the edge, c and d weigh 0
        cards = oracle()
        buy(cards, 0, units=1)
        buy(cards, 5, units=10)
        c, d = buy(cards, 1, units=100), buy(cards, 2, units=100)
        assert (c.flags, d.flags) == (("late",), ("late",))
        assert (count(c), count(d)) == (2, 2)
        assert c.features["card_avg_amount_5h"] == 50.5
        e = buy(cards, 5, units=20)
        assert (count(e), e.features["card_avg_amount_5h"]) == (2, 15.0)

    def test_lateness_is_the_cards_own(self) -> None:
        cards = oracle()
        buy(cards, 100, card="x")
        assert buy(cards, 0, card="y").became is ReferenceOutcome.SCORED

    def test_a_late_one_does_not_move_the_newest(self) -> None:
        cards = oracle()
        buy(cards, 5)
        buy(cards, 0)
        assert cards.cards["c"].newest_ms == START + 5 * HOUR


class TestDuplicates:
    def test_the_same_id_on_the_same_card_changes_nothing(self) -> None:
        cards = oracle()
        buy(cards, 0, name="a")
        assert buy(cards, 0, name="a") == ReferenceResult(ReferenceOutcome.DUPLICATE)
        assert count(buy(cards, 1)) == 2
        assert cards.cards["c"].newest_ms == START + HOUR

    def test_another_time_or_amount_conflicts_and_is_recognised_again(self) -> None:
        cards = oracle()
        buy(cards, 0, name="a", units=10)
        for again in ({"hour": 2, "units": 10}, {"hour": 0, "units": 9_000}):
            verdict = buy(cards, name="a", **again)
            assert verdict.became is ReferenceOutcome.CONFLICTING
            assert verdict.flags == ("conflicting",)
            assert buy(cards, name="a", **again).became is ReferenceOutcome.DUPLICATE
        assert cards.cards["c"].newest_ms == START
        assert count(buy(cards, 2)) == 2  # the first of them, and itself

    def test_an_id_that_is_used_again_a_horizon_later_is_new(self) -> None:
        # nothing came in between: the entry is there still, but only because nothing has pushed it out
        for hour, became in ((6.999, ReferenceOutcome.CONFLICTING), (7, ReferenceOutcome.SCORED)):
            cards = oracle()
            buy(cards, 0, name="a")
            assert buy(cards, hour, name="a").became is became

    def test_the_same_id_on_another_card_is_no_duplicate(self) -> None:
        cards = oracle()
        buy(cards, 0, name="a")
        assert buy(cards, 0, name="a", card="other").became is ReferenceOutcome.SCORED

    def test_a_late_one_is_recognised_again(self) -> None:
        cards = oracle()
        buy(cards, 5)
        assert buy(cards, 0, name="a").became is ReferenceOutcome.LATE
        assert buy(cards, 0, name="a").became is ReferenceOutcome.DUPLICATE

    def test_once_its_entry_has_left_it_is_unknown(self) -> None:
        # horizon = 5h + 2h: at hour 7 the entry of hour 0 leaves
        cards = oracle()
        buy(cards, 0, name="a")
        buy(cards, 7)
        assert buy(cards, 0, name="a").became is ReferenceOutcome.LATE

    def test_a_late_one_behind_the_horizon_leaves_at_once(self) -> None:
        cards = oracle()
        buy(cards, 10)
        assert [buy(cards, 3, name="a").became for _ in range(2)] == [ReferenceOutcome.LATE] * 2


class TestLeaving:
    @pytest.mark.parametrize(
        ("newest_ms", "kept"), [(7 * HOUR - 1, 2), (7 * HOUR, 1), (7 * HOUR + 1, 1)]
    )
    def test_an_entry_leaves_when_it_is_the_horizon_behind(self, newest_ms: int, kept: int) -> None:
        cards = oracle()
        cards.apply("c", "a", START, 100)
        cards.apply("c", "b", START + newest_ms, 100)
        history = cards.cards["c"]
        assert len(history.times) == kept
        assert history.floor_ms == (START if kept == 1 else None)

    def test_the_cap_lets_the_oldest_go_and_windows_say_so(self) -> None:
        # hours   0    1    2    3    4
        #         a    b    c              three fit
        #              b    c    d         a has left: floor = 0
        # (---------- 5h --------]         (-2, 3] reaches below the floor: inexact
        #                   e at 5: (0, 5] starts at the floor: b leaves after, exact for e itself
        cards = oracle(max_entries=3)
        for hour in (0, 1, 2):
            assert buy(cards, hour).flags == ()
        d = buy(cards, 3)
        assert (count(d), d.flags) == (4, ())  # a leaves only after d has been computed
        assert cards.cards["c"].floor_ms == START
        assert buy(cards, 5).flags == ()
        assert cards.cards["c"].floor_ms == START + HOUR
        f = buy(cards, 5)
        assert (count(f), f.flags) == (4, ("inexact:card_5h",))

    def test_flags_name_the_windows_shortest_first_and_then_the_order(self) -> None:
        cards = oracle(max_entries=1, windows_ms=(HOUR, 3 * HOUR, 5 * HOUR))
        buy(cards, 0)
        buy(cards, 2)  # the entry of hour 0 leaves
        verdict = buy(cards, 1.5)
        assert verdict.flags == ("inexact:card_3h", "inexact:card_5h", "out_of_order")

    def test_one_older_than_all_kept_leaves_first_when_the_cap_is_reached(self) -> None:
        # hours      0    1    2
        # arrival 1            a
        # arrival 2       b         the cap is 1: b itself leaves
        cards = oracle(max_entries=1)
        buy(cards, 2, name="a")
        buy(cards, 1, name="b")
        assert cards.cards["c"].ids == ["a"]
        assert cards.cards["c"].floor_ms == START + HOUR

    def test_of_equal_times_the_first_to_arrive_leaves_first(self) -> None:
        cards = oracle(max_entries=2)
        for name in "abc":
            buy(cards, 0, name=name)
        assert cards.cards["c"].ids == ["b", "c"]

    def test_an_entry_that_weighs_nothing_raises_the_floor_too(self) -> None:
        cards = oracle(max_entries=1)
        buy(cards, 5)
        assert buy(cards, 2).became is ReferenceOutcome.LATE
        assert cards.cards["c"].floor_ms == START + 2 * HOUR

    def test_the_floor_never_falls(self) -> None:
        history = KeyHistory()
        for hour in (5, 1):
            history.add(hour, 1, 1, "")
            history.forget(100, 1 if hour == 5 else 0)
        assert history.floor_ms == 5


class TestCalendar:
    @pytest.mark.parametrize(
        ("text", "zone", "weekend", "night"),
        [
            ("2026-01-02T23:59:59.999+00:00", "UTC", 0.0, 0.0),  # a Friday
            ("2026-01-03T00:00:00+00:00", "UTC", 1.0, 1.0),
            ("2026-01-04T06:59:59.999+00:00", "UTC", 1.0, 1.0),  # hour 6 is night
            ("2026-01-04T07:00:00+00:00", "UTC", 1.0, 0.0),
            ("2026-01-05T00:00:00+00:00", "UTC", 0.0, 1.0),
            ("2026-01-02T23:00:00+00:00", "Europe/Paris", 1.0, 1.0),  # Saturday, 00:00 there
            ("2026-03-29T05:00:00+00:00", "Europe/Paris", 1.0, 0.0),  # summer time since an hour
            ("2026-01-05T01:00:00+00:00", "America/New_York", 1.0, 0.0),  # Sunday, 20:00 there
        ],
    )
    def test_weekend_and_night_are_local(
        self, text: str, zone: str, weekend: float, night: float
    ) -> None:
        from datetime import datetime

        cards = CardReference(ReferenceRules(**{**vars(RULES), "timezone": zone}))
        t_ms = round(datetime.fromisoformat(text).timestamp() * 1000)
        features = cards.apply("c", "a", t_ms, 1).features
        assert (features["is_weekend"], features["is_night"]) == (weekend, night)


class TestTerminals:
    def at(self, oracle: TerminalReference, hour: float, weight: int = 1) -> ReferenceResult:
        return oracle.apply("t", START + int(hour * HOUR), weight)

    def test_it_counts_as_cards_do_in_the_order_of_the_log(self) -> None:
        # hours      0    1    2    3    4    5
        # item 1     a
        # item 2                              b    a is on its left edge
        # item 3          c                        sees a and itself
        # item 4                              d    sees b, c and itself
        terminals = TerminalReference(RULES)
        counts = [self.at(terminals, h).features["terminal_count_5h"] for h in (0, 5, 1, 5)]
        assert counts == [1, 1, 2, 3]

    def test_a_late_item_counts_itself_and_for_nobody(self) -> None:
        terminals = TerminalReference(RULES)
        self.at(terminals, 0)
        assert self.at(terminals, 0, weight=0).features["terminal_count_5h"] == 2
        assert self.at(terminals, 0).features["terminal_count_5h"] == 2

    def test_there_is_no_lateness_of_a_terminals_own(self) -> None:
        # hour 4 is more than 2h behind hour 9, and still counts: its card thought it in time
        terminals = TerminalReference(RULES)
        self.at(terminals, 9)
        self.at(terminals, 4)
        assert self.at(terminals, 8).features["terminal_count_5h"] == 2

    def test_entries_leave_by_the_terminals_own_newest(self) -> None:
        terminals = TerminalReference(RULES)
        self.at(terminals, 0)
        self.at(terminals, 7)
        assert terminals.terminals["t"].floor_ms == START
        assert self.at(terminals, 4).flags == ("inexact:terminal_5h",)
        assert self.at(terminals, 5).flags == ()

    def test_without_a_terminal_counts_are_zero(self) -> None:
        terminals = TerminalReference(RULES)
        for _ in range(2):
            assert terminals.apply(None, START, 1) == ReferenceResult(
                ReferenceOutcome.SCORED, {"terminal_count_5h": 0.0}
            )
        assert terminals.terminals == {}

    def test_what_is_at_or_below_the_highest_offset_seen_is_a_replay(self) -> None:
        terminals = TerminalReference(RULES)
        offsets = [0, 2, 1, 2, 3]
        assert [terminals.is_replay(0, ("tx", 0, o)) for o in offsets] == [
            False, False, True, True, False,
        ]  # fmt: skip

    def test_replays_are_told_by_enriched_partition_and_source_partition(self) -> None:
        terminals = TerminalReference(RULES)
        places = [(0, 0), (0, 1), (1, 0), (0, 0)]
        assert [terminals.is_replay(p, ("tx", source, 5)) for p, source in places] == [
            False, False, False, True,
        ]  # fmt: skip


def test_it_names_the_catalogues_features() -> None:
    windows = (HOUR, 24 * HOUR, 30 * 24 * HOUR)
    rules = ReferenceRules(windows, HOUR, 100)
    names = {*CardReference(rules).apply("c", "a", START, 1).features}
    names |= {*TerminalReference(rules).apply("t", START, 1).features}
    assert names == set(Catalogue(windows, 2, "UTC").names)


def test_murmur2_is_kafkas() -> None:
    numbers = random.Random(7)
    for length in range(40):
        data = numbers.randbytes(length)
        assert murmur2(data) == kafkas_murmur2(data) & 0xFFFFFFFF
        assert murmur2_partition(data, 12) == (kafkas_murmur2(data) & 0x7FFFFFFF) % 12
