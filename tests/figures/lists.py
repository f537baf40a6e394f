"""`/alerts/` and `/search` over a million rows: what a person waits for."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiohttp
import orjson

from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.domain.alert_policy import CAUSES, AlertPolicy, day_of
from app.settings import Settings
from tests.builders import T0
from tests.figures.filling import fill
from tests.figures.servers import Servers, quantiles
from tests.fleet import Fleet
from tests.prediction_builder import prediction
from tests.worker_settings import environ_of

ROWS, DAYS, CARDS, ASKED = 1_000_000, 7, 50_000, 300
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
        yield f"  ({2 * rows:,} rows written in {time.monotonic() - began:.0f} s)"
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
