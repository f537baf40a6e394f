"""Rows are written again from `predictions`: which ones, and from where an interrupted run goes on."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.cassandra.alert_rows import AlertPacker
from app.cassandra.label_rows import LABELS
from app.cli.replay import bound_of
from app.errors import NotAnsweringError, UsageError
from app.ops import rewrite as module
from app.ops.replaying.look_back_bounds import Bound
from app.ops.rewrite import Rewritten, write_beside, write_labels, write_range
from tests.builders import T0
from tests.unit.test_verify_findings import busy, scored_again
from tests.verify_world import MemoryLog, VerifyWorld, cells_of, rows_of, unpacked


class Writer:
    """Takes rows until it has had enough.

    Args:
        most: rows that it takes; afterwards it is as Cassandra is when it is away.
    """

    last_error = "no node"

    def __init__(self, most: int = 10**9) -> None:
        self.rows: dict[tuple[Any, ...], Any] = {}
        self.left = most
        self.unavailable_since: float | None = None

    def submit(self, rows: Sequence[bytes]) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left -= len(rows)
        if self.left < 0:
            self.unavailable_since = 0.0
            return future
        for raw in rows:
            row = unpacked(raw)
            conflicts = b"conflicting" in (
                row.flags or b""
            )  # in a table of their own, under another key
            place = (row.source_partition, row.source_offset) if conflicts else ()
            self.rows[row.card_id, row.event_time, row.transaction_id, place] = row
        future.set_result(None)
        return future


class TimedLog(MemoryLog):
    async def at_time(self, topic: Any, time_ms: int) -> list[int]:
        records = self._world.logs[topic.name]
        return [sum(one.timestamp < time_ms for one in each) for each in records]


def written(
    world: VerifyWorld,
    begin: str | None = None,
    end: str | None = None,
    writer: Writer | None = None,
) -> tuple[Writer, Rewritten]:
    writer, report = writer or Writer(), Rewritten()

    def bound(option: str, text: str | None) -> Bound | None:
        return None if text is None else bound_of(option, text)

    def nothing(*_: Any) -> None: ...

    try:
        asyncio.run(
            write_range(
                world.settings, TimedLog(world), writer,  # type: ignore[arg-type]
                bound("--from", begin), bound("--to", end), nothing, report, writer,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    except NotAnsweringError:
        assert report.rest
    return writer, report


def test_all_rows() -> None:
    world = busy()
    writer, report = written(world)
    assert sorted(writer.rows.values()) == sorted(world.rows)
    assert report.finished
    assert report.rest == ""
    assert report.rows == report.records == len(world.log(world.topics.predictions))


def test_a_range_by_offset_and_by_time() -> None:
    world = busy()
    first, second = world.logs[world.topics.predictions.name]
    writer, report = written(world, "0:3,1:5", "0:10,1:6")
    assert report.records == 8
    expected = rows_of(world.settings, [*first[3:10], *second[5:6]])
    assert sorted(writer.rows.values()) == sorted(expected)
    _, report = written(world, "1:5")
    assert report.records == len(second) - 5
    middle = first[len(first) // 2].timestamp
    _, report = written(world, str(middle))
    assert report.records == sum(one.timestamp >= middle for one in [*first, *second])
    with pytest.raises(UsageError, match="there is no record of predictions in this range"):
        written(world, "100000")
    with pytest.raises(UsageError, match="partition 7 does not exist"):
        written(world, "7:1")


def test_refunds_and_alerts_of_a_range_of_time_or_all() -> None:
    world = busy(threshold=0.0)
    topics = world.topics
    middle = world.log(topics.alerts)[40].timestamp
    later = {
        topic.name: [one for one in world.log(topic) if one.timestamp >= middle]
        for topic in (topics.refunds, topics.alerts)
    }
    for begin, refunds, alerts in (
        (None, world.log(topics.refunds), world.log(topics.alerts)),
        ("0:3", world.log(topics.refunds), world.log(topics.alerts)),
        (str(middle), later[topics.refunds.name], later[topics.alerts.name]),
    ):
        report, written_rows = Rewritten(), ([], [])  # type: ignore[var-annotated]

        class Keeps:
            unavailable_since = last_error = None

            def __init__(self, rows: list[bytes]) -> None:
                self.rows = rows

            def submit(self, rows: Sequence[bytes]) -> "asyncio.Future[None]":
                self.rows += rows
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                future.set_result(None)
                return future

        asyncio.run(
            write_beside(
                world.settings, TimedLog(world), *map(Keeps, written_rows),  # type: ignore[arg-type]
                None if begin is None else bound_of("--from", begin), None, lambda *_: None, report,
            )
        )  # fmt: skip
        assert (report.refunds, report.alerts) == (len(refunds), len(alerts))
        packer = AlertPacker(2, world.settings.deployment)
        assert sorted(written_rows[1]) == sorted(
            packer.pack_many(one.value or b"" for one in alerts)
        )


def test_labels_are_those_that_enriched_has() -> None:
    world = busy()
    for number in range(9):
        place = {"card_id": "c1", "terminal_id": "t1", "event_time": T0 + number}
        world.label(
            {"transaction_id": f"tx-{number}", "is_fraud": True, "labelled_at": T0, **place}
        )
    kept: list[bytes] = []

    class Keeps:
        unavailable_since = last_error = None

        def submit(self, rows: Sequence[bytes]) -> "asyncio.Future[None]":
            kept.extend(rows)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future

    report = Rewritten()
    asyncio.run(
        write_labels(
            world.settings, TimedLog(world), Keeps(), None, None, lambda *_: None, report,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    cells = [cells_of(row, LABELS.columns) for row in kept]
    found = {(one["source_topic"], one["source_partition"], one["source_offset"]) for one in cells}
    assert found == set(world.label_rows)
    assert report.labels == len(kept) >= len(found) > 0


def test_one_that_cassandra_leaves_alone_says_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    world = busy()
    first, report = written(world, writer=Writer(60))
    assert 0 < report.rows <= 60
    assert not report.finished
    second, _ = written(world, report.rest)
    assert sorted({**first.rows, **second.rows}.values()) == sorted(world.rows)


@pytest.mark.parametrize("names", [True, False])
def test_rows_of_another_deployment_stay_away(names: bool) -> None:
    world = scored_again(names=names)
    writer, report = written(world)
    assert sorted(writer.rows.values()) == sorted(world.rows)
    assert report.rows < report.records
    own = len(world.logs[world.topics.predictions.name][0]) // 2
    writer, report = written(world, "0:0", f"0:{own // 2}")
    assert not report.rows, "these are the other one's, and have been scored again"


def test_predictions_of_an_old_release_are_written() -> None:
    world = scored_again(names=False, again=False)
    _, report = written(world)
    assert report.rows == report.records > 100
