"""Twenty analysts at two workers and one Cassandra: every alert is decided once, and none is left."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cassandra.cluster import Session

from app.cassandra.alert_queries import (
    AlertQuery,
    acknowledge,
    alert_ids,
    alert_of_transaction,
    card_alerts,
    days_back,
    list_alerts,
    read_reviews,
)
from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.audit_records import (
    DONE,
    STARTED,
    AuditRecord,
    read_records,
    write_records,
)
from app.cassandra.claims_and_verdicts import ReviewStore
from app.cassandra.review_rows import Review
from app.cassandra.row_writer import RowWriter
from app.cassandra.timeline import timeline
from app.domain.alert_policy import CAUSES, AlertPolicy
from app.settings import Settings
from app.web.access.users import token_line
from app.web.pages import install
from app.web.replies import RefusedError
from app.web.review_page import REVIEWS
from app.web.review_queue import LEASE_MS, ReviewQueue
from tests.builders import T0
from tests.prediction_builder import prediction
from tests.web_worker import DictWorker

pytestmark = pytest.mark.integration
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

        self._store = store

    async def look_up(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(ask, *arguments)

    async def keep_records(self, *records: AuditRecord) -> None:
        store = self._store
        await asyncio.to_thread(write_records, store._session, store._settings, records)


async def store_rows(session: Session, settings: Settings, rows: list[Any]) -> None:
    writer = RowWriter(session, settings, ALERTS)
    await writer.write(AlertPacker(2).pack_many(map(orjson.dumps, rows)))
    await writer.close()


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
    await store_rows(session, settings, alerts)
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
    before = time.time_ns() // 1_000_000
    await decide_all(session, settings, tmp_path, CARDS)
    records = list(
        read_records(session, settings, from_ms=before, to_ms=time.time_ns() // 1_000_000 + 1)
    )
    assert [one.at_ms for one in records] == sorted((one.at_ms for one in records), reverse=True)
    assert {one.role for one in records} == {"analyst"}
    assert STARTED not in {one.result for one in records}
    by_action = defaultdict(list)
    for one in records:
        by_action[one.action, one.result].append(one)
    decided = {
        name: review.decided_by
        for day in days_back(T0 - HOUR, NOW)
        for name, review in read_reviews(session, settings, day).items()
        if review.decided_by
    }
    assert decided
    verdicts = by_action["verdict", DONE]
    authors = {next(o for o in one.objects if o.startswith("alert/")): one.by for one in verdicts}
    assert authors.items() >= {f"alert/{name}": by for name, by in decided.items()}.items()
    # every verdict and every release was preceded by a claim of that alert by the same person
    claims = {(one.by, name) for one in by_action["claim", DONE] for name in one.objects}
    for one in (*verdicts, *by_action["release", DONE]):
        assert any((one.by, name) in claims for name in one.objects), one


async def decide_all(session: Session, settings: Settings, folder: Path, cards: int) -> int:
    """Let analysts decide the alerts of some cards; how many there were.

    `make bench-pages` does it with thousands.
    """
    alerts = await written(session, settings, cards)
    assert 2 * cards <= len(alerts) <= 3 * cards
    lines = [token_line(f"analyst-{number}", "analyst") for number in range(ANALYSTS)]
    users = folder / "users"
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
        alert = store.alert(name, NOW)
        assert alert is not None
        review = alert.review
        assert (review.verdict, review.decided_by) == (said[name], by_analyst[name])
        assert sorted(review.transactions) == sorted(ids)
        assert alert.handled is not None
        assert (alert.handled["by"], alert.handled["note"]) == (by_analyst[name], said[name])
        assert review.labelled_at is not None
    assert store.ranked(T0 - HOUR, NOW, NOW, 10).open == 0
    assert store.unsent(T0 - HOUR, NOW, NOW + 1) == []
    return len(alerts)


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


async def test_one_of_those_who_open_an_alert_takes_it(
    session: Session, settings: Settings
) -> None:
    alerts = await written(session, settings, 1)
    name = next(iter(alerts))
    queues = [
        ReviewQueue(CassandraWorker(ReviewStore(settings)), now_ms=lambda: NOW) for _ in range(2)
    ]
    taken = await asyncio.gather(
        *(queues[n % 2].take(f"a{n}", name) for n in range(ANALYSTS)), return_exceptions=True
    )
    (holder,) = {one.review.claimed_by for one in taken if not isinstance(one, BaseException)}
    refused = {str(one) for one in taken if isinstance(one, RefusedError)}
    assert len(refused) == 1
    assert refused == {f"{holder} has taken it in the meantime"}
    assert sum(isinstance(one, RefusedError) for one in taken) == ANALYSTS - 1
    assert await queues[0].decide(str(holder), name, "fraud", None, "") == len(alerts[name])


async def test_an_alert_is_open_again_with_what_came_since(
    session: Session, settings: Settings
) -> None:
    def row(name: str, received_at: int, *, at: int = 0, rules: Any = ()) -> dict[str, Any]:
        made = POLICY.alert(
            prediction(name, card="again", at=at, is_fraud=True, rules=list(rules), terminal_id="spot",
                       source_offset=abs(at) + received_at - NOW, received_at=received_at)
        )  # fmt: skip
        assert made is not None
        return made

    first = row("first", NOW)
    name = first["alert_id"]
    await store_rows(session, settings, [first, row("old", NOW, at=-3 * HOUR)])
    store = ReviewStore(settings)

    def todo() -> list[str]:
        alert = store.alert(name, NOW)
        assert alert is not None
        assert (alert.state == "open") == bool(alert.todo)
        listed, _ = list_alerts(session, settings, AlertQuery(T0 - HOUR, NOW, limit=9), NOW)
        ranked = store.ranked(T0 - HOUR, NOW, NOW, 10)
        of_card, of_terminal = (
            ask(name, T0 - HOUR, NOW)
            for ask, name in ((store.of_card, "again"), (store.of_terminal, "spot"))
        )
        for found in (listed, ranked.alerts, of_card, of_terminal):
            assert (name in {one.alert_id for one in found}) == bool(alert.todo)
        return [one["transaction_id"] for one in alert.todo]

    assert todo() == ["tx-first"]
    acknowledge(session, settings, name, by="ann", note="seen", now_ms=NOW + 1)
    assert todo() == []
    await store_rows(session, settings, [row("second", NOW + 2, rules=["large"])])
    assert todo() == ["tx-second"]
    assert store.claim(name, "bob", NOW + LEASE_MS, NOW).holder(NOW) == "bob"
    verdict = Review(None, None, "fraud", "bob", NOW + 5, ("tx-second",))
    assert store.decide(name, verdict) == verdict
    assert todo() == []
    # labels are still to be sent, although nothing is open
    assert store.unsent(T0 - HOUR, NOW, NOW + 6) == [name]
    assert store.unsent(T0 - HOUR, NOW, NOW + 5) == []
    store.close(name, verdict, NOW + 7)
    assert store.unsent(T0 - HOUR, NOW, NOW + 6) == []
    await store_rows(
        session, settings, [row("third", NOW + 3)]
    )  # received before the verdict, not seen by it
    assert todo() == ["tx-third"]
    # whoever does not know the first verdict cannot claim nor decide past it
    assert store.claim(name, "cy", NOW + LEASE_MS, NOW).holder(NOW) is None
    assert store.claim(name, "cy", NOW + LEASE_MS, NOW, NOW + 5).holder(NOW) == "cy"
    second = Review(None, None, "genuine", "cy", NOW + 9, ("tx-third",), None, ("tx-second",))
    assert store.decide(name, second).verdict == "fraud"
    assert store.decide(name, second, NOW + 5) == second
    assert todo() == []
    alert = store.alert(name, NOW)
    assert alert is not None
    assert (alert.review.transactions, alert.review.earlier) == (("tx-third",), ("tx-second",))
    assert alert.review.unsent
    # the pages of the card and the terminal ask for rows, not for alerts
    of_card = timeline(settings, "card", "again", NOW)
    assert of_card == []  # its transactions were never stored here
    assert alert_ids(session, settings, "again")["tx-first", T0] == name
    # the page of a transaction asks for one alert, by whatever window it was made
    assert alert_of_transaction(session, settings, "again", "tx-first", T0) == name
    assert alert_of_transaction(session, settings, "again", "tx-first", T0 + 1) is None
    assert alert_of_transaction(session, settings, "again", "tx-none", T0) is None
    assert store.of_terminal("elsewhere", T0 - HOUR, NOW) == []
    of_terminal = timeline(settings, "terminal", "spot", NOW)
    assert [one["transaction_id"] for one in of_terminal][-1] == "tx-old"
    assert {one["alert_id"] for one in of_terminal[:-1]} == {name}
    assert [one.alert_id for one in card_alerts(session, settings, "again", NOW)][0] == name
