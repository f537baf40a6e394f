"""Twenty analysts at two workers and one Cassandra: every alert is decided once, and none is left."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cassandra.cluster import Session

from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.review_store import Review, ReviewStore
from app.cassandra.row_writer import RowWriter
from app.domain.alerts import CAUSES, AlertPolicy
from app.settings import Settings
from app.web.review import REVIEWS
from app.web.review_queue import LEASE_MS, ReviewQueue
from app.web.users import token_line
from app.web.views import install
from tests.builders import T0
from tests.prediction_builder import prediction
from tests.web_worker import DictWorker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ANALYSTS, CARDS = 20, 100
HOUR = 3_600_000
#: Two alerts a card.
POLICY = AlertPolicy(CAUSES, HOUR, (1, 2, 3))
NOW = T0 + 5 * HOUR


class CassandraWorker(DictWorker):
    """A worker whose alerts and reviews are in a real Cassandra; its labels are kept."""

    def __init__(self, store: ReviewStore, **settings: Any) -> None:
        super().__init__(**settings)
        self.reviews = store  # type: ignore[assignment]

    async def look_up(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(ask, *arguments)


async def written(session: Session, settings: Settings, cards: int) -> dict[str, list[str]]:
    """Alerts in Cassandra: transaction ids by alert."""
    alerts = []
    for card in range(cards):
        for at in (0, 60_000, 3 * HOUR):
            row = POLICY.alert(
                prediction(f"{card}-{at}", card=f"c{card}", at=at, is_fraud=True, amount_minor=1_000 + card,
                           source_partition=card, source_offset=at)
            )  # fmt: skip
            alerts.append(row)
    writer = RowWriter(session, settings, ALERTS)
    await writer.write(AlertPacker(2).pack_many(map(orjson.dumps, alerts)))
    await writer.close()
    found: dict[str, list[str]] = {}
    for row in alerts:
        assert row is not None
        found.setdefault(row["alert_id"], []).append(row["transaction_id"])
    return found


async def analyst(client: TestClient, token: str, number: int) -> list[tuple[str, str, int]]:
    """Decides until nothing is left: alert, verdict, labels. Now and then one is put off."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    decided: list[tuple[str, str, int]] = []
    put_off: set[str] = set()

    async def post(path: str, data: Any) -> Any:
        reply = await client.post(path, data=data, headers=headers)
        assert reply.status == 200, await reply.text()
        return await reply.json()

    said = await post("/review/next", {})
    while said["next"] is not None:
        alert = said["next"]
        name = alert["alert_id"]
        if len(decided) % 7 == number % 7 and name not in put_off:
            put_off.add(name)
            said = await post("/review/later", {"alert": name})
            if said["next"] is None:
                said = await post("/review/next", {})
            continue
        verdict = ("fraud", "genuine")[len(decided) % 2]
        shown = [("transaction", row["transaction_id"]) for row in alert["transactions"]]
        said = await post("/review/verdict", [("alert", name), ("verdict", verdict), *shown])
        decided.append((name, verdict, said["labels"]))
    return decided


async def test_each_alert_is_decided_once_and_none_is_left(
    session: Session, settings: Settings, tmp_path: Path
) -> None:
    alerts = await written(session, settings, CARDS)
    assert 2 * CARDS <= len(alerts) <= 3 * CARDS
    lines = [token_line(f"analyst-{number}", "analyst") for number in range(ANALYSTS)]
    users = tmp_path / "users"
    users.write_text("".join(f"{line}\n" for _, line in lines))
    store = ReviewStore(settings)
    clients, workers = [], []
    for _ in range(2):
        worker = CassandraWorker(store, web_host="0.0.0.0", web_users=users)
        application = web.Application()
        install(application, worker)
        application[REVIEWS] = ReviewQueue(worker, now_ms=lambda: NOW)
        client = TestClient(TestServer(application))
        await client.start_server()
        clients.append(client)
        workers.append(worker)
    try:
        done = await asyncio.gather(
            *(analyst(clients[n % 2], token, n) for n, (token, _) in enumerate(lines))
        )
    finally:
        for client in clients:
            await client.close()
    decided = [one for of_analyst in done for one in of_analyst]
    assert Counter(name for name, _, _ in decided) == Counter(
        alerts.keys()
    )  # none twice, none lost
    assert sum(1 for of_analyst in done if of_analyst) > ANALYSTS // 2
    labels = [label for worker in workers for label in worker.labels]
    assert Counter(label["transaction_id"] for label in labels) == Counter(
        name for names in alerts.values() for name in names
    )
    said = {name: verdict for name, verdict, _ in decided}
    by_analyst = {name: f"analyst-{n}" for n, found in enumerate(done) for name, _, _ in found}
    for name, ids in alerts.items():
        found = store.alert(name, NOW)
        assert found is not None
        alert, review = found
        assert (review.verdict, review.decided_by) == (said[name], by_analyst[name])
        assert sorted(review.transactions) == sorted(ids)
        assert alert.acked is not None
        assert (alert.acked["by"], alert.acked["note"]) == (by_analyst[name], said[name])
    assert store.alerts(T0 - HOUR, NOW, NOW) == []


async def test_claims_are_decided_by_cassandra_alone(session: Session, settings: Settings) -> None:
    (name,) = [one for one, ids in (await written(session, settings, 1)).items() if len(ids) == 2][
        :1
    ]
    store = ReviewStore(settings)
    claims = await asyncio.gather(
        *(
            asyncio.to_thread(store.claim, name, f"a{n}", NOW + LEASE_MS, NOW)
            for n in range(ANALYSTS)
        )
    )
    holders = {claim.holder(NOW) for claim in claims}
    assert len(holders) == 1
    (holder,) = holders
    assert holder is not None
    # a claim that has ended is anybody's, but once; giving back is the holder's
    later = NOW + LEASE_MS + 1
    claims = await asyncio.gather(
        *(asyncio.to_thread(store.claim, name, f"b{n}", later + LEASE_MS, later) for n in range(5))
    )
    (second,) = {claim.holder(later) for claim in claims}
    store.release(name, holder)
    assert store.claim(name, "c", later + LEASE_MS, later).holder(later) == second
    refused = store.decide(name, Review(None, None, "fraud", holder, later, ("x",), None))
    assert (refused.verdict, refused.claimed_by) == (None, second)
    assert second is not None
    wanted = Review(None, None, "genuine", second, later, ("x",), "why")
    assert store.decide(name, wanted) == wanted
    assert store.decide(name, wanted) == wanted  # repeated: the same
    other = store.decide(name, Review(None, None, "fraud", second, later + 1, ("x",), None))
    assert (other.verdict, other.note) == ("genuine", "why")
    store.release(name, second)
    assert store.claim(name, "c", later + LEASE_MS, later).verdict == "genuine"
