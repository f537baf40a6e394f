"""Live precision: which labels count, what is asked of Cassandra, and what a dashboard shows."""

import asyncio
from collections.abc import Sequence

from app.display import second
from app.errors import UnavailableError
from app.metrics.labelled_flags import WINDOW_MS, LabelledFlags, RecentLabel
from app.web.live_precision import LabelledCounts, LivePrecision, together
from app.wire.label_records import LabelRecord
from tests.builders import T0
from tests.web_worker import DictWorker, client_of


def label(
    name: str, *, is_fraud: bool = True, received_at: int = T0, offset: int = 0
) -> LabelRecord:
    return LabelRecord(offset, received_at, name, is_fraud, T0, "c1", None, T0, b"")


class Clock:
    seconds = 0.0
    ms = T0

    def later(self, seconds: float = 10.0) -> None:
        self.seconds += seconds
        self.ms += round(seconds * 1_000)


class Decisions:
    """What was decided, by transaction."""

    def __init__(self, **flagged: bool) -> None:
        self.flagged = flagged
        self.asked: list[list[str]] = []
        self.away = False

    async def read(self, labels: Sequence[RecentLabel]) -> dict[tuple[str, int], bool]:
        self.asked.append([one.transaction_id for one in labels])
        if self.away:
            raise UnavailableError("no Cassandra")
        names = [one.transaction_id for one in labels]
        return {(name, T0): self.flagged[name] for name in names if name in self.flagged}


def live_of(labels: LabelledFlags, decisions: Decisions, clock: Clock) -> LivePrecision:
    return LivePrecision(labels, decisions.read, lambda: clock.ms, lambda: clock.seconds)


async def look(live: LivePrecision, clock: Clock) -> tuple[int, ...]:
    """The figures once everything is read that was there."""
    for _ in range(10):
        live.counts()
        await settle()
        clock.later(1.0)
    return tuple(live.counts().values())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_precision_is_the_share_of_frauds_among_flagged_and_labelled() -> None:
    labels, clock = LabelledFlags(), Clock()
    decisions = Decisions(a=True, b=True, c=False, d=True)
    live = live_of(labels, decisions, clock)
    assert LabelledCounts(**live.counts()).precision is None
    assert decisions.asked == []  # nothing to ask for
    labels.add(0, [label("old", received_at=T0 - WINDOW_MS)])
    labels.add(0, [label("a"), label("b", is_fraud=False), label("c"), label("gone")])
    clock.later()
    assert live.counts() == {"flagged": 0, "frauds": 0, "since_ms": 0}  # asks, and does not wait
    await settle()
    assert live.counts() == {"flagged": 2, "frauds": 1, "since_ms": 0}
    assert decisions.asked == [["a", "b", "c", "gone"]]
    labels.add(1, [label("b"), label("d", is_fraud=False)])  # b was corrected
    clock.later()
    counts = LabelledCounts(*await look(live, clock))
    assert counts == (3, 2, 0)
    assert counts.precision == 2 / 3
    assert decisions.asked[1:] == [["d"]]  # each is asked for once
    clock.later(WINDOW_MS / 1_000 + 300)
    assert live.counts() == {"flagged": 0, "frauds": 0, "since_ms": 0}


async def test_without_cassandra_the_figures_stay_and_are_asked_for_again() -> None:
    labels, clock, decisions = LabelledFlags(), Clock(), Decisions(a=True)
    live = live_of(labels, decisions, clock)
    labels.add(0, [label("a")])
    decisions.away = True
    for asked in (1, 1, 2):  # not at every look
        live.counts()
        await settle()
        assert len(decisions.asked) == asked
        clock.later(0.7)
    decisions.away = False
    assert await look(live, clock) == (1, 1, 0)


async def test_labels_of_approved_transactions_displace_nothing() -> None:
    """A demo gets 20 labels per second: after 100 s, the first verdicts were forgotten."""
    labels, clock, decisions = LabelledFlags(), Clock(), Decisions(flagged=True)
    live = live_of(labels, decisions, clock)
    labels.add(0, [label("flagged")])
    assert await look(live, clock) == (1, 1, 0)
    for hour in range(20):
        clock.later(3_600)
        labels.add(0, [label(f"{hour}-{n}", received_at=clock.ms) for n in range(1_000)])
        assert await look(live, clock) == (1, 1, 0)


async def test_memory_is_bounded_and_counts_are_not() -> None:
    labels, clock = LabelledFlags(most_undecided=4, most_replaceable=2), Clock()
    decisions = Decisions(**dict.fromkeys("abcdef", True))
    live = live_of(labels, decisions, clock)
    for name in "abcdef":
        labels.add(0, [label(name)])
        await look(live, clock)
    assert await look(live, clock) == (6, 6, 0)
    labels.add(0, [label("f", is_fraud=False)])  # of the newest: counts instead
    assert await look(live, clock) == (6, 5, 0)
    labels.add(0, [label("a", is_fraud=False)])  # of one that is no longer known: counts beside
    assert await look(live, clock) == (7, 5, 0)


async def test_too_many_labels_at_once_shorten_the_period_which_is_said() -> None:
    labels, clock = LabelledFlags(most_undecided=3), Clock()
    live = live_of(labels, Decisions(**dict.fromkeys("abcde", True)), clock)
    labels.add(0, [label(name, received_at=T0 + at) for at, name in enumerate("abcde")])
    assert await look(live, clock) == (3, 3, T0 + 1)  # a and b were displaced
    clock.later(WINDOW_MS / 1_000)
    assert (await look(live, clock))[2] == 0  # they would no longer count


def test_labels_that_another_worker_had_are_missing() -> None:
    labels = LabelledFlags()
    labels.assigned(0, 0, T0)
    assert labels.counts(T0)[2] == 0  # from the first label on
    labels.add(0, [label("a", offset=8)])
    labels.assigned(0, 9, T0 + 10)  # another rebalance: nobody else had it
    labels.assigned(1, 5, T0 + 20)
    assert labels.counts(T0 + 30)[2] == T0 + 20
    labels.assigned(0, 12, T0 + 25)  # it was away for three labels
    assert labels.counts(T0 + 30)[2] == T0 + 25
    assert labels.counts(T0 + 25 + WINDOW_MS)[2] == 0


def test_workers_together_are_complete_since_the_latest_of_them() -> None:
    known = [{"flagged": 4, "frauds": 3, "since_ms": 7}, {"flagged": 1, "frauds": 0, "since_ms": 9}]
    assert together(known) == (5, 3, 9)
    assert together([]) == (0, 0, 0)


async def test_a_dashboard_shows_it_with_what_it_rests_on() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        text = await (await client.get("/")).text()
        assert "Live precision" in text
        assert "no labels" in text
    worker.labelled_counts = {"flagged": 40, "frauds": 33, "since_ms": 0}
    async with client_of(worker) as client:
        text = await (await client.get("/")).text()
    assert "82%" in text
    assert "of 40 labelled" in text
    assert "complete since" not in text
    worker.labelled_counts["since_ms"] = T0
    async with client_of(worker) as client:
        text = await (await client.get("/")).text()
    assert f"of 40 labelled, complete since {second(T0)[11:16]}" in text
