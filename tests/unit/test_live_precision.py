"""Live precision: which labels count, what is asked of Cassandra, and what a dashboard shows."""

import asyncio
from collections.abc import Sequence

from app.errors import UnavailableError
from app.metrics.recent_labels import RecentLabel, RecentLabels
from app.web.live_precision import WINDOW_MS, LabelledCounts, LivePrecision
from app.wire.label_records import LabelRecord
from tests.builders import T0
from tests.web_worker import DictWorker, client_of


def label(name: str, *, is_fraud: bool = True, received_at: int = T0) -> LabelRecord:
    return LabelRecord(0, received_at, name, is_fraud, T0, "c1", None, T0, b"")


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


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_precision_is_the_share_of_frauds_among_flagged_and_labelled() -> None:
    labels, clock = RecentLabels(), Clock()
    decisions = Decisions(a=True, b=True, c=False, d=True)
    live = LivePrecision(labels, decisions.read, lambda: clock.ms, lambda: clock.seconds)
    assert LabelledCounts(**live.counts()).precision is None
    assert decisions.asked == []  # nothing to ask for
    labels.add([label("a"), label("b", is_fraud=False), label("c"), label("gone")])
    labels.add([label("old", received_at=T0 - WINDOW_MS)])
    clock.later()
    assert live.counts() == {"labels": 0, "flagged": 0, "frauds": 0}  # asks, and does not wait
    await settle()
    assert live.counts() == {"labels": 3, "flagged": 2, "frauds": 1}
    assert decisions.asked == [["gone", "c", "b", "a"]]
    labels.add([label("b"), label("d", is_fraud=False)])  # b was corrected
    clock.later()
    live.counts()
    await settle()
    counts = LabelledCounts(**live.counts())
    assert counts == (4, 3, 2)
    assert counts.precision == 2 / 3
    assert decisions.asked[1:] == [["d"]]  # each is asked for once
    clock.later(WINDOW_MS / 1_000)
    assert live.counts() == {"labels": 0, "flagged": 0, "frauds": 0}


async def test_without_cassandra_the_figures_stay_and_are_asked_for_again() -> None:
    labels, clock, decisions = RecentLabels(), Clock(), Decisions(a=True)
    live = LivePrecision(labels, decisions.read, lambda: clock.ms, lambda: clock.seconds)
    labels.add([label("a")])
    decisions.away = True
    for asked in (1, 1, 2):  # not at every look
        live.counts()
        await settle()
        assert len(decisions.asked) == asked
        clock.later(1.5)
    decisions.away = False
    clock.later()
    live.counts()
    await settle()
    assert live.counts() == {"labels": 1, "flagged": 1, "frauds": 1}


def test_the_newest_labels_are_kept() -> None:
    labels = RecentLabels(kept=3)
    labels.add([label(name) for name in "abcde"])
    assert [one.transaction_id for one in labels.newest()] == ["e", "d", "c"]
    labels.add([label("c", is_fraud=False), label("f")])
    assert [(one.transaction_id, one.is_fraud) for one in labels.newest()] == [
        ("f", True), ("c", False), ("e", True),
    ]  # fmt: skip


async def test_a_dashboard_shows_it_with_what_it_rests_on() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        text = await (await client.get("/")).text()
        assert "Live precision" in text
        assert "no labels" in text
    worker.labelled_counts = {"labels": 50, "flagged": 40, "frauds": 33}
    async with client_of(worker) as client:
        text = await (await client.get("/")).text()
    assert "82%" in text
    assert "of 40 labelled" in text
