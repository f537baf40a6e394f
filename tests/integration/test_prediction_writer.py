"""Predictions to a real Cassandra and back: every value, through outages, refusals and restarts."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cassandra.cluster import Session

from app.cassandra import outage_log, silent_nodes
from app.cassandra.prediction_queries import (
    card_predictions,
    find_transaction,
    find_transactions,
    scan_predictions,
)
from app.cassandra.prediction_rows import COLUMNS, PREDICTIONS, RowPacker, row_dict
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import connect, disconnect
from app.cassandra.table_ttl import TtlCheck
from app.errors import SchemaError, StateError, UnavailableError
from app.settings import Settings
from tests.builders import T0
from tests.deployment import PATIENCE_SECONDS
from tests.prediction_builder import (
    count_predictions,
    expected_row,
    prediction,
    prediction_bytes,
    random_prediction,
)
from tests.real_servers import Servers
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.integration


@pytest.fixture
async def writer(session: Session, settings: Settings) -> AsyncIterator[RowWriter]:
    writer = RowWriter(session, settings, PREDICTIONS, seed=1)
    yield writer
    await writer.close()


@pytest.fixture
async def proxy(stack: Servers) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(*stack.endpoints.cassandra[0]) as proxy:
        yield proxy


@pytest.fixture
async def far_writer(
    session: Session, settings: Settings, proxy: TcpProxy
) -> AsyncIterator[RowWriter]:
    """A writer that reaches Cassandra through the proxy alone."""
    through = settings.model_copy(update={"cassandra": f"127.0.0.1:{proxy.port}"})
    far = await asyncio.to_thread(connect, through)
    writer = RowWriter(far, through, PREDICTIONS, seed=1, status=Notes())
    yield writer
    await writer.close()
    await asyncio.to_thread(disconnect, far)


class Notes:
    """Takes down what a status is told."""

    def __init__(self) -> None:
        self.rows = 0
        self.reasons: list[str] = []

    def written(self, rows: int) -> None:
        self.rows += rows

    def waiting(self, reason: str) -> None:
        self.reasons.append(reason)

    def idle(self) -> None:
        """Nothing waits any more."""


def packed(*records: dict[str, Any]) -> list[bytes]:
    return RowPacker("EUR", 2).pack_many(map(orjson.dumps, records)).rows


def stored(session: Session, settings: Settings) -> dict[str, dict[str, Any]]:
    """Every row as a dict, by transaction."""
    rows = [
        row_dict(dict(zip(COLUMNS, row, strict=True)), 2)
        for row in scan_predictions(session, settings)
    ]
    by_id = {row["transaction_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def expected(made: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(made["event_time_ms"] // 1000, UTC)
    iso = f"{moment:%Y-%m-%dT%H:%M:%S}.{made['event_time_ms'] % 1000:03d}Z"
    return expected_row(made, f"{moment:%Y-%m}", iso)


async def test_compressed_rows_are_the_same(session: Session, settings: Settings) -> None:
    smaller = settings.model_copy(update={"cassandra_compression": "lz4"})
    writer = RowWriter(session, smaller, PREDICTIONS, seed=1)
    rng = random.Random(8)
    records = [random_prediction(rng, number) for number in range(300)]
    await writer.write(packed(*records))
    assert (writer.rows_written, writer.retries, writer.last_error) == (300, 0, None)
    await writer.close()
    rows = await asyncio.to_thread(stored, session, settings)
    for made in records:
        assert rows[made["transaction_id"]] == expected(made)


async def test_every_column_comes_back(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    rng = random.Random(7)
    records = [random_prediction(rng, number) for number in range(1_000)]
    await writer.write(packed(*records))
    assert (writer.rows_written, writer.rows_waiting, writer.in_flight) == (1_000, 0, 0)
    assert (writer.retries, writer.last_error, writer.unavailable_since) == (0, None, None)
    rows = await asyncio.to_thread(stored, session, settings)
    assert rows == {made["transaction_id"]: expected(made) for made in records}
    assert await asyncio.to_thread(count_predictions, session, settings) == 1_000
    # written again: the same rows, not more of them
    await writer.write(packed(*records))
    assert await asyncio.to_thread(stored, session, settings) == rows


async def test_what_a_record_lacks_is_not_written_at_all(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    bare = prediction(1)
    del bare["terminal_id"]
    await writer.write(packed(bare))
    written = "writetime(anomaly_score) AS a, writetime(extra) AS e, writetime(terminal_id) AS t"
    row = session.execute(
        f"SELECT {written}, writetime(score) AS s, features['amount'] AS f "
        f"FROM {settings.keyspace}.predictions"
    ).one()
    assert (row["a"], row["e"], row["t"]) == (None, None, None)
    assert row["s"] > 0
    assert row["f"] == 10.0


async def test_no_rows_are_done_at_once(writer: RowWriter) -> None:
    await writer.write([])


async def test_reads_for_people(session: Session, settings: Settings, writer: RowWriter) -> None:
    day = 86_400_000
    records = [prediction(n, card="c-one", at=n * 10 * day) for n in range(12)]
    records += [prediction("shared", card=card, at=n) for n, card in enumerate(("a", "b"))]
    await writer.write(packed(*records))

    def read() -> None:
        one = find_transaction(settings, "tx-3")
        assert one is not None
        assert one == {**expected(records[3]), "label": None, "alert_id": None, "others": []}
        assert find_transaction(settings, "tx-none") is None
        shared = find_transactions(session, settings, "tx-shared")
        assert [row["card_id"] for row in shared] == ["b", "a"]

        def newest(limit: int, before_ms: int | None = None) -> list[str]:
            rows = card_predictions(session, settings, "c-one", limit, before_ms=before_ms)
            return [row["transaction_id"] for row in rows]

        assert newest(100) == [f"tx-{n}" for n in reversed(range(12))]
        assert newest(5) == ["tx-11", "tx-10", "tx-9", "tx-8", "tx-7"]
        assert newest(2, T0 + 30 * day) == ["tx-2", "tx-1"]
        assert card_predictions(session, settings, "nobody", 5) == []
        few = set(scan_predictions(session, settings, ("transaction_id", "score"), page_rows=3))
        assert few == {(made["transaction_id"], 0.25) for made in records}

        def within(from_ms: int | None, to_ms: int | None) -> list[str]:
            scan = scan_predictions(
                session, settings, ("transaction_id",), from_ms=from_ms, to_ms=to_ms
            )
            return sorted(name for (name,) in scan)

        def wanted(from_ms: int, to_ms: int) -> list[str]:
            return sorted(
                one["transaction_id"] for one in records if from_ms <= one["event_time_ms"] < to_ms
            )

        times = sorted({one["event_time_ms"] for one in records})
        begin, end = times[2], times[7]  # whose ends are within and outside
        assert within(begin, end) == wanted(begin, end) != []
        assert within(None, end) == wanted(0, end)
        assert within(begin, None) == wanted(begin, times[-1] + 1)
        assert within(times[-1] + 1, None) == []

    await asyncio.to_thread(read)


async def test_without_its_index_a_look_up_says_what_to_do(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    await writer.write(packed(prediction(1)))

    def read() -> None:
        index = f"{settings.keyspace}.predictions_by_transaction"
        session.execute(f"DROP INDEX {index}", timeout=20)
        with pytest.raises(SchemaError, match="no index on transaction_id"):
            find_transaction(settings, "tx-1")
        assert len(card_predictions(session, settings, "c1", 5)) == 1

    await asyncio.to_thread(read)


@pytest.mark.parametrize("size", [1_024, 8_192, 24_576, 49_152])
async def test_batches_of_any_size_are_taken_whole(
    session: Session, settings: Settings, size: int
) -> None:
    sized = settings.model_copy(update={"sink_batch_bytes": size})
    writer = RowWriter(session, sized, PREDICTIONS, seed=1)
    rng = random.Random(size)
    rows = packed(*(random_prediction(rng, number) for number in range(400)))
    await writer.write(rows)
    assert writer._batch_bytes == size, "the server refused a batch"
    assert writer.rows_written == 400
    assert writer.batches_written <= 400
    await writer.close()


async def test_a_batch_that_this_server_finds_too_large_is_halved(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    writer._batch_bytes = 400_000
    await writer.write(packed(*(prediction(number, card=f"c{number}") for number in range(500))))
    assert writer._batch_bytes < 100_000  # it has learnt
    assert await asyncio.to_thread(count_predictions, session, settings) == 500


async def test_a_row_of_many_segments(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    records = [prediction(1, note="ü" * 300_000), prediction(2, card="c2")]
    await writer.write(packed(*records))
    rows = await asyncio.to_thread(stored, session, settings)
    assert rows == {made["transaction_id"]: expected(made) for made in records}


async def test_a_row_that_is_never_taken_is_named(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    records = [prediction(number, card=f"c{number}") for number in range(40)]
    records[17] |= {"card_id": "x" * 70_000, "source_offset": 1017}
    with pytest.raises(
        StateError, match=r"refuses the prediction of transactions/3/1017\b"
    ) as told:
        await writer.write(packed(*records))
    assert "tx-17" not in str(told.value)  # messages reach logs, which contain no ids
    await asyncio.sleep(0.1)
    assert writer.rows_waiting == 0
    await writer.write(packed(prediction("after")))


async def test_a_missing_table_is_not_waited_for(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    await writer.write(packed(prediction(1)))
    session.execute(f"DROP TABLE {settings.keyspace}.predictions", timeout=20)
    with pytest.raises(SchemaError, match="run `fraudstream migrate`"):
        await asyncio.wait_for(writer.write(packed(prediction(2))), 20)


async def test_the_table_may_be_altered_meanwhile(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    async def alter() -> None:
        for seconds in (100, 200, 300):
            statement = (
                f"ALTER TABLE {settings.keyspace}.predictions WITH default_time_to_live = {seconds}"
            )
            await asyncio.to_thread(session.execute, statement, timeout=20)
        await asyncio.to_thread(
            session.execute,
            f"ALTER TABLE {settings.keyspace}.predictions ADD IF NOT EXISTS more text",
            timeout=20,
        )

    altering = asyncio.create_task(alter())
    number = 0
    while not altering.done():
        await asyncio.wait_for(
            writer.write(packed(*(prediction(number + n) for n in range(50)))), 20
        )
        number += 50
    await altering
    assert await asyncio.to_thread(count_predictions, session, settings) == number


async def test_a_ttl_that_is_changed_meanwhile_is_noticed(
    session: Session, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    kept_for = TtlCheck(session, settings, "predictions")
    kept_for.look()
    assert not caplog.records
    session.execute(f"ALTER TABLE {settings.keyspace}.predictions WITH default_time_to_live = 60")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not caplog.records:
            await asyncio.sleep(0.05)
            kept_for.look()
    assert "keeps new rows 1m, but FRAUDSTREAM_PREDICTION_TTL is 400d" in caplog.text


async def test_a_lone_batch_that_failed_before_is_prepared_again(
    session: Session, settings: Settings, writer: RowWriter
) -> None:
    await asyncio.wait_for(writer.write(packed(prediction(0))), 20)
    statement = f"ALTER TABLE {settings.keyspace}.predictions ADD IF NOT EXISTS more text"
    await asyncio.to_thread(session.execute, statement, timeout=20)
    number = 0
    while not writer.retries:  # a busy server forgets a statement some time after the change
        number += 1
        assert number < 200, "the server has not forgotten the statement"
        done = writer.submit(packed(prediction(number)))
        await asyncio.sleep(0)  # it is sent with what else comes in this turn
        assert writer._nodes is not None
        (link,) = writer._nodes.links.values()
        ((batch, _),) = link.pending.values()
        batch.attempts = 1  # as after a timeout; nobody else writes, whose first attempt would help
        await asyncio.wait_for(done, 20)
        await asyncio.sleep(0.1)
    assert await asyncio.to_thread(count_predictions, session, settings) == number + 1


# ----------------------------------------------------------------------- outages


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are spoken of, and silence is given up, within a test's patience."""
    monkeypatch.setattr(outage_log, "_WARN_SECONDS", 0.3)
    monkeypatch.setattr(outage_log, "_REMIND_SECONDS", 0.5)
    monkeypatch.setattr(silent_nodes, "_SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(silent_nodes, "_LOOK_SECONDS", 0.1)


async def until(condition: Any, seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("quick")
async def test_an_outage_is_waited_for_and_spoken_of_calmly(
    session: Session, settings: Settings, far_writer: RowWriter, proxy: TcpProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "app.cassandra")
    await far_writer.write(packed(prediction("before")))
    proxy.cut(refuse=True)
    waiting = asyncio.create_task(far_writer.write(packed(*(prediction(n) for n in range(300)))))
    await until(lambda: len(caplog.records) >= 2)
    assert not waiting.done()
    assert far_writer.unavailable_since is not None
    assert far_writer.last_error
    assert far_writer.rows_waiting == 300
    status: Any = far_writer._outage._status
    assert status.reasons
    assert len(caplog.records) <= 3
    proxy.mend()
    await asyncio.wait_for(waiting, 20)
    assert far_writer.unavailable_since is None
    assert (far_writer.rows_written, far_writer.rows_waiting, status.rows) == (301, 0, 301)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("Cassandra has not accepted predictions for 0 s (127.0.0.1:")
    assert lines[-1].startswith("Cassandra accepts predictions again after")
    assert await asyncio.to_thread(count_predictions, session, settings) == 301


@pytest.mark.usefixtures("quick")
async def test_a_silent_server_is_given_up_and_tried_again(
    session: Session, settings: Settings, far_writer: RowWriter, proxy: TcpProxy
) -> None:
    await far_writer.write(packed(prediction("before")))
    proxy.silent = True
    waiting = asyncio.create_task(far_writer.write(packed(prediction("during"))))
    await until(lambda: far_writer.retries > 0)
    proxy.mend()
    await asyncio.wait_for(waiting, 20)
    assert await asyncio.to_thread(count_predictions, session, settings) == 2


async def test_nothing_is_lost_when_connections_break_again_and_again(
    session: Session, settings: Settings, far_writer: RowWriter, proxy: TcpProxy
) -> None:
    rng = random.Random(3)
    records: list[dict[str, Any]] = []
    done = asyncio.Event()

    async def cut() -> None:
        while not done.is_set():
            await asyncio.sleep(rng.uniform(0.02, 0.2))
            proxy.cut()

    cutting = asyncio.create_task(cut())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while far_writer.retries < 10:  # batches that were on their way in a cut
            wave = [random_prediction(rng, len(records) + number) for number in range(500)]
            records += wave
            parts = [wave[at : at + 100] for at in range(0, len(wave), 100)]
            await asyncio.gather(*(far_writer.write(packed(*part)) for part in parts))
    done.set()
    await cutting
    assert (far_writer.in_flight, far_writer.rows_waiting) == (0, 0)
    rows = await asyncio.to_thread(stored, session, settings)
    assert rows == {made["transaction_id"]: expected(made) for made in records}


async def test_a_cancelled_write_is_given_up(
    session: Session, settings: Settings, far_writer: RowWriter, proxy: TcpProxy
) -> None:
    await far_writer.write(packed(prediction("before")))
    proxy.cut(refuse=True)
    kept = asyncio.create_task(far_writer.write(packed(prediction("kept"))))
    revoked = asyncio.create_task(far_writer.write(packed(*(prediction(n) for n in range(100)))))
    await until(lambda: far_writer.rows_waiting == 101)
    revoked.cancel()
    await asyncio.wait([revoked])
    await until(lambda: far_writer.rows_waiting == 1)
    proxy.mend()
    await asyncio.wait_for(kept, 20)
    assert far_writer.rows_waiting == 0
    ids = await asyncio.to_thread(lambda: set(stored(session, settings)))
    assert {"tx-before", "tx-kept"} <= ids
    assert len(ids) == 2


async def test_closing_cancels_what_is_not_acknowledged(
    far_writer: RowWriter, proxy: TcpProxy
) -> None:
    await far_writer.write(packed(prediction("before")))
    proxy.cut(refuse=True)
    waiting = asyncio.create_task(far_writer.write(packed(prediction(1))))
    await asyncio.sleep(0.05)
    await far_writer.close()
    await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()


async def test_a_server_that_is_killed_and_started_again(
    stack: Servers, session: Session, settings: Settings, writer: RowWriter
) -> None:
    local = stack.require_local()
    done: list[asyncio.Task[None]] = []
    await writer.write(packed(prediction("first")))
    await asyncio.to_thread(local.stop, "cassandra", kill=True)
    try:
        for number in range(20):
            rows = packed(*(prediction(number * 100 + n) for n in range(100)))
            done.append(asyncio.create_task(writer.write(rows)))
        await until(lambda: writer.unavailable_since is not None)
        with pytest.raises(UnavailableError, match="no Cassandra at"):
            await asyncio.to_thread(find_transaction, settings, "tx-1")
    finally:
        await asyncio.to_thread(local.start, "cassandra")
    await asyncio.wait_for(asyncio.gather(*done), PATIENCE_SECONDS)
    assert writer.rows_written == 2_001

    def all_there() -> bool:
        try:
            return count_predictions(session, settings) == 2_001
        except UnavailableError:  # the driver's session comes back a little later
            return False

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(all_there):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def test_the_sample_is_what_it_seems() -> None:
    assert orjson.loads(prediction_bytes(1)) == prediction(1)
