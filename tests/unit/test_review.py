"""The review queue: who gets which alert, what a verdict does, and what is refused."""

import asyncio
import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.cassandra.review_order import ranking
from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import expected_loss
from app.domain.alert_seen import seen_of
from app.errors import NotFoundError, UnavailableError, UsageError
from app.web.access.users import token_line
from app.web.replies import RefusedError
from app.web.review_queue import LEASE_MS, ReviewQueue
from tests.unit.test_web_access import with_change
from tests.unit.test_web_alerts import alert
from tests.web_worker import DictWorker, client_of

JSON = {"Accept": "application/json"}


def some(worker: DictWorker, count: int = 5) -> list[Alert]:
    """Alerts whose expected loss rises with their number."""
    made = [
        alert(n, card=f"c{n}", amount_minor=1_000 * (n + 1), source_offset=n) for n in range(count)
    ]
    worker.reviews.add(*made)
    return made


class Clock:
    ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def seconds(self) -> float:
        return self.ms / 1000


def queue_of(worker: DictWorker, clock: Clock | None = None) -> ReviewQueue:
    clock = clock or Clock()
    return ReviewQueue(worker, clock.now_ms, clock.seconds)


def test_expected_loss_counts_each_transaction() -> None:
    one = alert(1, score=0.5, amount_minor=1_000)
    one.transactions += alert(2, score=1.0, amount_minor=300).transactions
    assert expected_loss(one.transactions) == 800
    one.transactions += alert(3, score=0.1, amount_minor=700, rules=["large"]).transactions
    assert expected_loss(one.transactions) == 1_500  # the whole amount, as for the severity


async def test_the_greatest_loss_comes_first_and_nobody_gets_what_another_has() -> None:
    worker = DictWorker()
    made = some(worker, 3)
    queue = queue_of(worker)
    first, second = await queue.next("ann"), await queue.next("bob")
    assert (first, second) == (made[2], made[1])
    assert await queue.next("ann") == made[2]  # hers still
    assert await queue.next("ann", skip=[made[2].alert_id]) == made[0]
    assert await queue.next("cy") is None
    holders = {a.alert_id: holder for a, holder in (await queue.ranked(9))[0]}
    assert holders == {
        made[2].alert_id: "ann", made[1].alert_id: "bob", made[0].alert_id: "ann",
    }  # fmt: skip


async def test_a_claim_ends() -> None:
    worker, clock = DictWorker(), Clock()
    (one,) = some(worker, 1)
    queue = queue_of(worker, clock)
    assert await queue.next("ann") == one
    clock.ms += LEASE_MS - 1
    assert await queue.next("bob") is None
    clock.ms += 60_000
    assert await queue.next("bob") == one
    with pytest.raises(RefusedError, match="bob has taken it in the meantime"):
        await queue.decide("ann", one.alert_id, "fraud", None, "")
    assert worker.labels == []
    assert await queue.decide("bob", one.alert_id, "fraud", None, "") == 1


async def test_a_verdict_labels_what_was_seen_and_closes_the_alert() -> None:
    worker, clock = DictWorker(), Clock()
    (one,) = some(worker, 1)
    queue = queue_of(worker, clock)
    await queue.next("ann")
    one.transactions += alert(8, card="c0", source_offset=8).transactions  # came since
    count = await queue.decide("ann", one.alert_id, "genuine", ["tx-0"], "called")
    assert count == 1
    (label,) = worker.labels
    assert (label["transaction_id"], label["is_fraud"], label["card_id"]) == ("tx-0", False, "c0")
    assert label["labelled_at"] == "2023-11-14T22:13:20.000Z"
    closed = worker.reviews.closed[one.alert_id]
    assert (closed.decided_by, closed.verdict, closed.note) == ("ann", "genuine", "called")
    clock.ms += 6_000
    assert await queue.ranked(9) == ([(one, None)], 1)  # with what came since
    assert [row["transaction_id"] for row in one.todo] == ["tx-8"]
    with pytest.raises(RefusedError, match="the claim has ended: take the alert again"):
        await queue.decide("ann", one.alert_id, "fraud", None, "")
    assert await queue.next("bob") == one
    assert await queue.decide("bob", one.alert_id, "fraud", None, "") == 1
    assert [label["transaction_id"] for label in worker.labels] == ["tx-0", "tx-8"]
    assert (await queue.look(one.alert_id)).state == "acked"
    with pytest.raises(RefusedError, match="bob has already decided it: fraud"):
        await queue.decide("ann", one.alert_id, "genuine", None, "")
    # the same again, because the answer was lost: one verdict
    assert await queue.decide("bob", one.alert_id, "fraud", None, "") == 1
    assert len(worker.labels) == 2


async def test_what_a_worker_left_undone_is_finished_by_whoever_looks() -> None:
    worker, clock = DictWorker(), Clock()
    (one,) = some(worker, 1)
    queue = queue_of(worker, clock)
    await queue.next("ann")
    send = worker.send_labels

    async def fail(_labels: Any) -> None:
        raise UnavailableError("Kafka is away")

    worker.send_labels = fail  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        await queue.decide("ann", one.alert_id, "fraud", None, "")
    worker.send_labels = send  # type: ignore[method-assign]
    other = queue_of(worker, clock)
    assert await other.ranked(9) == ([], 0)
    assert worker.labels == []  # it may be under way
    clock.ms += 31_000
    await other.ranked(9)
    assert [label["is_fraud"] for label in worker.labels] == [True]
    assert worker.labels[0]["labelled_at"] == "2023-11-14T22:13:20.000Z"  # hers
    assert worker.reviews.closed[one.alert_id].decided_by == "ann"
    clock.ms += 31_000
    await other.ranked(9)
    assert len(worker.labels) == 1


async def test_all_alerts_of_a_card() -> None:
    worker = DictWorker()
    made = [alert(n, card="c", at=n * 7_200_000, source_offset=n) for n in range(3)]
    worker.reviews.add(*made, alert(9, card="other"))
    queue = queue_of(worker)
    assert await queue.next("bob", skip=[made[1].alert_id, made[2].alert_id, "x"]) is not None
    taken = [name for name, known in worker.reviews.known.items() if known.claimed_by == "bob"]
    decided, labels, others = await queue.decide_card("ann", "c", "fraud", "")
    assert len(decided) == labels == 3 - others
    assert set(decided).isdisjoint(taken)
    assert {label["card_id"] for label in worker.labels} == {"c"}


async def test_all_alerts_at_a_terminal_leave_what_happened_elsewhere_open() -> None:
    worker = DictWorker()
    made = [alert(n, card=f"c{n}", terminal_id="spot", source_offset=n) for n in range(3)]
    made[1].transactions += alert(
        7, card="c1", terminal_id="elsewhere", source_offset=7
    ).transactions
    worker.reviews.add(*made, alert(9, card="c9", terminal_id="elsewhere"))
    queue = queue_of(worker)
    await queue.take("bob", made[2].alert_id)
    decided, labels, others = await queue.decide_terminal("ann", "spot", "fraud", "skimmer")
    assert (sorted(decided), labels, others) == (
        sorted(one.alert_id for one in made[:2]), 2, 1,
    )  # fmt: skip
    assert {label["transaction_id"] for label in worker.labels} == {"tx-0", "tx-1"}
    assert [row["transaction_id"] for row in made[1].todo] == ["tx-7"]
    assert (made[1].state, made[0].state) == ("open", "acked")
    assert worker.reviews.closed[made[0].alert_id].note == "skimmer"


async def test_exactly_one_alert_is_taken_by_its_id() -> None:
    worker, clock = DictWorker(), Clock()
    made = some(worker, 3)
    queue = queue_of(worker, clock)
    name = made[0].alert_id  # not the one that the queue would offer
    assert (await queue.take("ann", name)).review.holder(clock.ms) == "ann"
    with pytest.raises(RefusedError, match="ann has taken it in the meantime"):
        await queue.take("bob", name)
    clock.ms += LEASE_MS - 1
    await queue.take("ann", name)  # keeps it longer
    clock.ms += LEASE_MS - 1
    assert worker.reviews.known[name].holder(clock.ms) == "ann"
    clock.ms += 2
    assert (await queue.take("bob", name)).review.claimed_by == "bob"
    assert await queue.decide("bob", name, "fraud", None, "") == 1
    with pytest.raises(RefusedError, match="bob has already handled it: fraud"):
        await queue.take("ann", name)
    with pytest.raises(NotFoundError):
        await queue.take("ann", "20200101T000000-0000000000000000")
    made[0].transactions += alert(8, card="c0", source_offset=8).transactions
    assert (await queue.take("ann", name)).todo  # open again, although this worker had forgotten it


async def test_an_alert_is_opened_taken_and_decided_from_its_page() -> None:
    worker = DictWorker()
    made = some(worker, 2)
    made[0].transactions[0] |= {"reasons": ["amount is <high>"], "rules": ["large"]}
    path = f"/review/?alert={made[0].alert_id}"
    async with client_of(worker) as client:
        text = await (await client.get(path)).text()
        for shown in (
            "amount is &lt;high&gt;", "rule large", "/transactions/tx-0/", "/cards/c0/", "Nobody has taken this alert.",
            "Take this alert",
        ):  # fmt: skip
            assert shown in text, shown
        assert 'name="verdict"' not in text  # whoever does not have it cannot decide it
        form = {
            "csrf": re.search(r'name="csrf" value="([^"]*)"', text)[1],  # type: ignore[index]
            "alert": made[0].alert_id,
        }
        page = await client.post("/review/take", data=form)
        assert page.url.query["alert"] == made[0].alert_id
        assert "You have this alert for 5 more minutes" in await page.text()
        page = await client.post("/review/verdict", data={**form, "verdict": "fraud"})
        assert page.url.query["alert"] == made[1].alert_id  # the next one
        worker.reviews.release(made[1].alert_id, "local")
        worker.reviews.claim(made[1].alert_id, "bob", 2**42, 0)
        other = {**form, "alert": made[1].alert_id}
        text = await (await client.post("/review/take", data=other)).text()
        assert "bob has taken it in the meantime" in text
        assert "bob has taken this alert; the claim ends at" in text
        assert "Take this alert" not in text.replace("A take this alert", "")
        refused = await client.post("/review/take", data=other, headers=JSON)
        assert (refused.status, await refused.json()) == (
            409, {"error": "bob has taken it in the meantime"},
        )  # fmt: skip
        told = await (await client.get(f"/review.json?alert={made[1].alert_id}")).json()
        assert (told["alert"]["alert_id"], told["alert"]["holder"]) == (made[1].alert_id, "bob")
        assert (await client.get("/review/?alert=nope")).status == 404


async def test_a_verdict_on_a_terminal_from_the_page() -> None:
    worker = DictWorker()
    made = [
        alert(n, card=f"c{n}", terminal_id="sp<o>t", amount_minor=100 * n, source_offset=n)
        for n in (1, 2, 3)
    ]
    worker.reviews.add(*made)
    async with client_of(worker) as client:
        begin = await (await client.get("/review/")).text()
        csrf = re.search(r'name="csrf" value="([^"]*)"', begin)[1]  # type: ignore[index]
        text = await (await client.post("/review/next", data={"csrf": csrf})).text()
        assert 'name="terminal" value="sp&lt;o&gt;t" data-key="t"' in text
        form = {
            "csrf": csrf, "alert": made[2].alert_id, "verdict": "fraud", "terminal": "sp<o>t",
        }  # fmt: skip
        done = await client.post("/review/verdict", data=form)
        assert "3 decided as fraud, 3 labels sent" in await done.text()
    assert len(worker.labels) == 3


async def test_later_gives_an_alert_back() -> None:
    worker = DictWorker()
    (one,) = some(worker, 1)
    queue = queue_of(worker)
    await queue.next("ann")
    await queue.give_back("bob", one.alert_id)  # not his to give
    assert worker.reviews.known[one.alert_id].claimed_by == "ann"
    await queue.give_back("ann", one.alert_id)
    assert await queue.next("bob") == one


@pytest.mark.parametrize(
    ("verdict", "alert_id", "seen", "note", "error"),
    [
        ("maybe", None, None, "", UsageError),
        ("fraud", "20200101T000000-0000000000000000", None, "", NotFoundError),
        ("fraud", None, ["nothing"], "", RefusedError),
        ("fraud", None, None, "x" * 2_001, UsageError),
    ],
)
async def test_what_is_no_verdict(
    verdict: str, alert_id: str | None, seen: Any, note: str, error: type[Exception]
) -> None:
    worker = DictWorker()
    (one,) = some(worker, 1)
    queue = queue_of(worker)
    await queue.next("ann")
    with pytest.raises(error):
        await queue.decide("ann", alert_id or one.alert_id, verdict, seen, note)
    assert worker.labels == []


async def test_the_queue_is_not_read_at_every_look() -> None:
    worker, clock, reads = DictWorker(), Clock(), 0
    some(worker, 2)
    queue = queue_of(worker, clock)
    read = worker.reviews.ranked

    def slow(*asked: int) -> Any:
        nonlocal reads
        reads += 1
        clock.ms += 2_000
        return read(*asked)

    worker.reviews.ranked = slow  # type: ignore[method-assign]
    await queue.ranked(9)
    clock.ms += 39_000
    await queue.ranked(9)
    assert reads == 1  # two seconds of reading: not again for forty
    clock.ms += 2_000
    await queue.ranked(9)
    assert reads == 2


async def test_the_page_from_one_alert_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    worker = DictWorker()
    made = some(worker, 2)
    caplog.set_level(logging.INFO, "fraudstream.audit")
    async with client_of(worker) as client:
        begin = await (await client.get("/review/")).text()
        form = {"csrf": re.search(r'name="csrf" value="([^"]*)"', begin)[1]}  # type: ignore[index]
        assert (await client.post("/review/next")).status == 403  # no token
        page = await client.post("/review/next", data=form)
        text = await page.text()
        assert page.url.query["alert"] == made[1].alert_id
        assert "Expected loss 5.00 EUR" in text
        sent = {
            **form, "alert": made[1].alert_id, "verdict": "fraud", "transaction": "tx-1", "note": "odd",
        }  # fmt: skip
        page = await client.post("/review/verdict", data=sent)
        assert page.url.query["alert"] == made[0].alert_id
        assert "1 decided as fraud, 1 label sent" in await page.text()
        later = await client.post("/review/later", data={**form, "alert": made[0].alert_id})
        assert "all open alerts are taken" in await later.text()
        assert (
            await client.post("/review/verdict", data=sent, headers=JSON)
        ).status == 200  # again
        other = {**sent, "verdict": "genuine"}
        twice = await client.post("/review/verdict", data=other, headers=JSON)
        assert (twice.status, (await twice.json())["error"]) == (
            409, "local has already decided it: fraud",
        )  # fmt: skip
        decided = await (await client.get(f"/review/?alert={made[1].alert_id}")).text()
        assert "local decided this alert: fraud." in decided
        assert [
            one["alert_id"] for one in (await (await client.get("/review.json")).json())["alerts"]
        ]
    records = [
        json.loads(record.message)
        for record in caplog.records
        if record.name == "fraudstream.audit"
    ]
    changed = [one for one in records if one["status"] in (200, 303)]
    assert [one["audit"] for one in changed] == [
        "/review/next", "/review/verdict", "/review/later", "/review/verdict",
    ]  # fmt: skip
    assert {one["by"] for one in changed} == {"local"}
    assert changed[1]["verdict"] == "fraud"


async def test_without_a_login_only_this_machine_decides() -> None:
    worker = DictWorker(web_host="0.0.0.0", web_login="never")
    some(worker)
    async with with_change(worker, remote="10.0.0.9") as client:
        refused = await client.post("/review/next", headers=JSON)
        assert refused.status == 403
        assert "need a login" in (await refused.json())["error"]
        assert (await client.get("/review/")).status == 200
    assert worker.reviews.known == {}


async def test_who_asks_is_who_decides(tmp_path: Any) -> None:
    viewer, analyst = token_line("prom", "viewer"), token_line("script", "analyst")
    users = tmp_path / "users"
    users.write_text(f"{viewer[1]}\n{analyst[1]}\n")
    worker = DictWorker(web_host="0.0.0.0", web_users=users)
    (one,) = some(worker, 1)
    async with client_of(worker) as client:
        asks = {
            name: {"Authorization": f"Bearer {token}", **JSON}
            for name, token in (("v", viewer[0]), ("a", analyst[0]))
        }
        assert (await client.get("/review.json", headers=asks["v"])).status == 403
        assert (await client.post("/review/next", headers=asks["v"])).status == 403
        said = await (await client.post("/review/next", headers=asks["a"])).json()
        assert said["next"]["alert_id"] == one.alert_id
        assert said["next"]["loss_minor"] == 250
        form = {"alert": one.alert_id, "verdict": "genuine", "card": "c0"}
        said = await (await client.post("/review/verdict", headers=asks["a"], data=form)).json()
    assert said == {"verdict": "genuine", "labels": 1, "alerts": 1, "with_others": 0, "next": None}
    assert worker.reviews.known[one.alert_id].decided_by == "script"


def test_a_review_says_who_has_an_alert() -> None:
    assert Review("ann", 10).holder(9) == "ann"
    assert Review("ann", 10).holder(10) is None
    assert Review(None, None, "fraud", "ann", 5).holder(9) is None


async def test_large_alerts_are_decided_by_a_short_text_and_put_off() -> None:
    worker = DictWorker()
    one = alert(0, card="c" * 60, source_offset=0)
    for n in range(1, 1_400):
        one.transactions += alert(f"{n:08}" * 5, card="c" * 60, source_offset=n).transactions  # type: ignore[arg-type]
    worker.reviews.add(one)
    async with client_of(worker) as client:
        begin = await (await client.get("/review/")).text()
        csrf = re.search(r'name="csrf" value="([^"]*)"', begin)[1]  # type: ignore[index]
        text = await (await client.post("/review/next", data={"csrf": csrf})).text()
        assert text.count('type="hidden"') < 20
        seen = re.search(r'name="seen" value="([^"]*)"', text)[1]  # type: ignore[index]
        form = {"csrf": csrf, "alert": one.alert_id}
        assert (await client.post("/review/later", data=form)).status == 200
        await client.post("/review/next", data={"csrf": csrf})
        one.transactions += alert(9, card="c" * 60, source_offset=1_400).transactions
        sent = {**form, "verdict": "fraud", "seen": seen}
        said = await (await client.post("/review/verdict", data=sent, headers=JSON)).json()
    assert said["labels"] == 1_400
    assert [row["transaction_id"] for row in one.todo] == ["tx-9"]


async def test_a_verdict_is_not_about_what_came_late_between_what_was_seen() -> None:
    worker = DictWorker()
    one = alert(1, card="c", source_offset=5)
    worker.reviews.add(one)
    queue = queue_of(worker)
    await queue.next("ann")
    seen = seen_of(one.todo)
    one.transactions += alert(2, card="c", source_offset=3).transactions
    with pytest.raises(RefusedError, match="load the page again"):
        await queue.decide("ann", one.alert_id, "fraud", seen, "")
    with pytest.raises(UsageError, match="copy the field `seen`"):
        await queue.decide("ann", one.alert_id, "fraud", "nonsense", "")
    assert worker.labels == []


async def test_enter_presses_no_verdict_and_later_is_its_own_form() -> None:
    worker = DictWorker()
    some(worker, 1)
    queue_page = ""
    async with client_of(worker) as client:
        begin = await (await client.get("/review/")).text()
        csrf = re.search(r'name="csrf" value="([^"]*)"', begin)[1]  # type: ignore[index]
        queue_page = await (await client.post("/review/next", data={"csrf": csrf})).text()
    decide = queue_page[queue_page.index('<form class="decide"') :]
    decide = decide[: decide.index("</form>")]
    first = re.search(r"<button[^>]*>", decide)
    assert first is not None
    assert (
        "disabled" in first[0]
    )  # Enter presses the first button of a form, if that can be pressed
    assert "/review/later" not in decide


async def test_the_page_says_when_a_claim_has_ended() -> None:
    worker = DictWorker()
    (one,) = some(worker, 1)
    worker.reviews.claim(one.alert_id, "local", 1_000, 0)
    async with client_of(worker) as client:
        text = await (await client.get(f"/review/?alert={one.alert_id}")).text()
    assert "Your 5 minutes for this alert have ended" in text
    assert "You have this alert" not in text


async def test_one_thread_reads_and_a_failure_is_not_repeated_at_once() -> None:
    worker, clock, begun = DictWorker(), Clock(), 0
    (one,) = some(worker, 1)
    queue, read = queue_of(worker, clock), worker.reviews.ranked
    goes_on, threads = threading.Event(), ThreadPoolExecutor(4)

    def slow(*asked: int) -> Any:
        nonlocal begun
        begun += 1
        goes_on.wait(60)
        return read(*asked)

    async def give_up(ask: Any, *arguments: Any) -> Any:
        future = asyncio.get_running_loop().run_in_executor(threads, ask, *arguments)
        while not begun:  # noqa: ASYNC110 -- a thread sets it
            await asyncio.sleep(0.01)
        done, _ = await asyncio.wait({future}, timeout=0.05)
        if not done:
            raise UnavailableError("Cassandra did not answer")
        return future.result()

    worker.reviews.ranked = slow  # type: ignore[method-assign]
    worker.look_up = give_up  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(UnavailableError, match="did not answer"):
            await queue.ranked(9)
        clock.ms += 31_000  # also when it may be tried again: the thread still reads
    assert begun == 1
    goes_on.set()
    threads.shutdown(wait=True)  # what it found is not lost
    assert await queue.ranked(9) == ([(one, None)], 1)
    assert begun == 1


async def test_a_slow_read_delays_nobody_and_undoes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.review_order_cache._WAIT_SECONDS", 0.01)
    worker, clock = DictWorker(), Clock()
    made = some(worker, 3)
    queue, read = queue_of(worker, clock), worker.reviews.ranked
    first = await queue.next("ann")
    assert first is not None
    goes_on, threads = threading.Event(), ThreadPoolExecutor(4)
    before = await asyncio.to_thread(read, 0, 2**60, clock.now_ms(), 9)

    def slow(*_: int) -> Any:  # what it has seen is older than what happens while it reads
        goes_on.wait(60)
        return before

    async def in_thread(ask: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, ask, *arguments)

    worker.reviews.ranked = slow  # type: ignore[method-assign]
    worker.look_up = in_thread  # type: ignore[method-assign]
    clock.ms += 6_000
    second = await queue.next("bob")
    assert second is not None
    assert await queue.decide("ann", first.alert_id, "fraud", None, "") == 1
    goes_on.set()
    while queue._open._is_read:  # noqa: ASYNC110 -- a thread
        await asyncio.sleep(0.01)
    ranked, count = await queue.ranked(9)
    assert [(one.alert_id, holder) for one, holder in ranked] == [
        (second.alert_id, "bob"),
        (next(one.alert_id for one in made if one not in (first, second)), None),
    ]
    assert count == 2
    threads.shutdown()


async def test_a_failed_read_is_remembered() -> None:
    worker, clock, reads = DictWorker(), Clock(), 0

    def away(*_asked: int) -> Any:
        nonlocal reads
        reads += 1
        raise UnavailableError("no Cassandra")

    worker.reviews.ranked = away  # type: ignore[method-assign]
    queue = queue_of(worker, clock)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="no Cassandra"):
            await queue.ranked(9)
    assert reads == 1
    clock.ms += 31_000
    with pytest.raises(UnavailableError, match="no Cassandra"):
        await queue.ranked(9)
    assert reads == 2


def test_a_ranking_keeps_the_best_and_counts_all() -> None:
    made = [alert(n, card=f"c{n}", amount_minor=100 + n) for n in range(20)]
    made[3].acked = {"at": 2**50, "by": "ann", "note": ""}
    found = ranking(iter(made), 3)
    assert (found.alerts, found.open) == (made[:-4:-1], 19)


async def test_a_card_is_decided_although_one_of_its_alerts_is_refused() -> None:
    worker = DictWorker()
    made = [alert(n, card="c", at=n * 7_200_000, source_offset=n) for n in range(3)]
    worker.reviews.add(*made)
    decide = worker.reviews.decide

    def refuse_one(alert_id: str, wanted: Review, decided_at: int | None = None) -> Review:
        refused = alert_id == made[1].alert_id
        return Review("bob", 2**50) if refused else decide(alert_id, wanted, decided_at)

    worker.reviews.decide = refuse_one  # type: ignore[method-assign]
    decided, labels, others = await queue_of(worker).decide_card("ann", "c", "fraud", "")
    assert (decided, labels, others) == ([made[0].alert_id, made[2].alert_id], 2, 1)
    assert {label["transaction_id"] for label in worker.labels} == {"tx-0", "tx-2"}


async def test_labels_of_an_earlier_verdict_are_sent_before_the_next_one() -> None:
    worker, clock = DictWorker(), Clock()
    (one,) = some(worker, 1)
    queue = queue_of(worker, clock)
    await queue.next("ann")
    worker.reviews.decide(one.alert_id, Review(None, None, "fraud", "ann", 7, ("tx-0",)))
    one.transactions += alert(8, card="c0", source_offset=8).transactions
    other = queue_of(worker, clock)
    assert await other.next("bob") == one
    assert await other.decide("bob", one.alert_id, "genuine", None, "") == 1
    assert [(label["transaction_id"], label["is_fraud"]) for label in worker.labels] == [
        ("tx-0", True), ("tx-8", False),
    ]  # fmt: skip
    assert worker.reviews.known[one.alert_id].covered == {"tx-0", "tx-8"}
    assert one.state == "acked"


async def test_a_queue_that_is_still_read_is_not_shown_as_empty() -> None:
    worker = DictWorker()
    some(worker, 1)
    queue = queue_of(worker)
    with queue._open._reading, pytest.raises(UnavailableError, match="is being read; try again"):
        await queue.ranked(9)
    assert (await queue.ranked(9))[1] == 1
