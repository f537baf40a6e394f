"""`/alerts/` and `/search` over a million rows, some decided and acknowledged: what a person waits for."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiohttp
import orjson
from cassandra.concurrent import execute_concurrent_with_args

from app.cassandra.alert_queries import key_of
from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.prediction_rows import moment_of
from app.cassandra.session import connected
from app.domain.alert_policy import CAUSES, AlertPolicy, day_of, place_of
from app.settings import Settings
from tests.builders import T0
from tests.figures.filling import fill
from tests.figures.servers import Servers, quantiles
from tests.fleet import Fleet
from tests.prediction_builder import prediction
from tests.worker_settings import environ_of

ROWS, DAYS, CARDS, ASKED = 1_000_000, 7, 50_000, 300
#: One alert in so many has a verdict, and one in so many is acknowledged: 7,100 and 2,900 per day.
REVIEWED, ACKED = 20, 50
_DAY_MS = 86_400_000
_POLICY = AlertPolicy(CAUSES, 3_600_000, (5_000, 20_000, 100_000))


class Row:
    """The n-th transaction, each of them an alert: always the same one.

    Args:
        number: n.
        rows: how many there are.
        end_ms: when the last one is, epoch milliseconds.
    """

    def __init__(self, number: int, rows: int, end_ms: int) -> None:
        rng = random.Random(number)
        self.card = f"card-{rng.randrange(CARDS)}"
        self.terminal = f"terminal-{rng.randrange(2_000)}"
        at = end_ms - T0 - (rows - number) * (DAYS * _DAY_MS // rows)
        self.fields = prediction(
            number, card=self.card, at=at, terminal_id=self.terminal, is_fraud=True, score=rng.random(),
            amount_minor=rng.randrange(500_000), source_partition=0, source_offset=number,
            reasons=["amount 250.00 is high"],
        )  # fmt: skip

    @property
    def alert(self) -> dict[str, Any]:
        """Its alert."""
        found = _POLICY.alert(self.fields)
        assert found is not None
        return found


def measure(servers: Servers, part: float) -> Iterator[str]:
    """Three lines."""
    rows, end_ms = int(ROWS * part), time.time_ns() // 1_000_000
    with servers.deployment("lists") as (deployment, folder):
        began = time.monotonic()
        asyncio.run(_fill(deployment.settings, rows, end_ms))
        handled = _handle(deployment.settings, rows, end_ms)
        spent = time.monotonic() - began
        yield f"  ({2 * rows:,} rows and {handled:,} reviews and acknowledgements written in {spent:.0f} s)"
        with Fleet(environ_of(deployment.settings), folder / "fleet") as fleet:
            fleet.start("a")
            fleet.await_ready()
            yield from asyncio.run(_ask(fleet["a"].url, rows, end_ms))


async def _fill(settings: Settings, rows: int, end_ms: int) -> None:
    alerts = AlertPacker(settings.minor_unit_digits)

    def made(numbers: range) -> tuple[list[bytes], Sequence[bytes]]:
        some = [Row(n, rows, end_ms) for n in numbers]
        packed = alerts.pack_many([orjson.dumps(one.alert) for one in some])
        return [orjson.dumps(one.fields) for one in some], packed

    await fill(settings, rows, ALERTS, made)


def _handle(settings: Settings, rows: int, end_ms: int) -> int:
    """Verdicts and acknowledgements as they are once they are complete; how many."""
    statements = (
        (
            REVIEWED,
            f"INSERT INTO {settings.keyspace}.alert_reviews (day, shard, opened_at, alert_id, transactions, verdict, "
            "decided_by, decided_at, labelled_at, note) VALUES (?, ?, ?, ?, ?, 'genuine', 'ann', ?, ?, 'a note')",
        ),
        (
            ACKED,
            f"INSERT INTO {settings.keyspace}.alert_acks (day, shard, opened_at, alert_id, acked_at, acked_by, note) "
            "VALUES (?, ?, ?, ?, ?, 'bob', 'a note')",
        ),
    )
    count, now = 0, moment_of(end_ms)
    with connected(settings) as session:
        for share, statement in statements:
            some = [Row(n, rows, end_ms) for n in range(share // 2, rows, share)]
            about = ([one.fields["transaction_id"]] for one in some)
            values = [
                (
                    *key_of(place_of(one.alert["alert_id"])),
                    *((names, now, now) if share == REVIEWED else (now,)),
                )
                for one, names in zip(some, about, strict=True)
            ]
            execute_concurrent_with_args(session, session.prepare(statement), values)
            count += len(values)
    return count


async def _ask(url: str, rows: int, end_ms: int) -> list[str]:
    rng = random.Random(1)

    def some() -> Row:
        return Row(rng.randrange(rows), rows, end_ms)

    def a_day() -> str:
        moment = end_ms - rng.randrange(1, DAYS) * _DAY_MS
        return f"from={day_of(moment)}&to={day_of(moment + _DAY_MS)}"

    lists: list[Callable[[], str]] = [
        lambda: "/alerts/",
        lambda: "/alerts.json?limit=50",
        lambda: "/alerts.json?severity=critical",
        lambda: f"/alerts.json?{a_day()}",
    ]
    cards: list[Callable[[], str]] = [lambda: f"/alerts.json?card={some().card}&all=1"]
    searches: list[Callable[[], str]] = [
        lambda: f"/search.json?id={some().fields['transaction_id']}",
        lambda: f"/search.json?id={some().alert['alert_id']}",
    ]
    lines = []
    async with aiohttp.ClientSession() as client:
        for what, paths in (
            ("/alerts/", lists),
            ("/alerts/ of a card", cards),
            ("/search", searches),
        ):
            for path in paths:  # connections and caches of a worker that has just started
                await _timed(client, url + path())
            took = [await _timed(client, url + paths[n % len(paths)]()) for n in range(ASKED)]
            lines.append(f"{what} over {rows:,} rows: {quantiles(took)}")
    return lines


async def _timed(client: aiohttp.ClientSession, url: str) -> float:
    began = time.perf_counter()
    async with client.get(url) as reply:
        text = await reply.text()
        assert reply.status == 200, (url, reply.status, text[:300])
    return (time.perf_counter() - began) * 1000
