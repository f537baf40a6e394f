"""The views of two real workers: either answers for every key, and the answer survives a rebuild."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from app.cli.worker import free_port
from app.kafka.clients import client_kwargs, consumer
from app.settings import Settings
from app.topics import Topics
from app.web.url_ids import json_path_of, path_of
from tests.builders import T0, tx
from tests.own_process import stop
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

ODD_CARDS = ["a b", "a/b", "ü€😀", "<script>alert(1)</script>", "..", "%2F", "x.json", "new\nline"]
CARDS = [f"c{number}" for number in range(12)] + ODD_CARDS
TERMINALS = [f"t{number}" for number in range(7)] + ["a/b"]
#: Cards that somebody tests.
TESTED = ("tested-1", "tested-2")
EACH, DEAD = 15, 4
MINUTE = 60_000
OPENER = build_opener(ProxyHandler({}))


class Worker:
    """A worker process with a port, a state folder and a log of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = folder / f"state-{self.port}"
        self.log = folder / f"worker-{self.port}.log"
        self._environment = environ_of(settings)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "app", "worker",
                 "--web-port", str(self.port), "--datadir", str(self.state)],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def get(self, path: str, accept: str = "application/json") -> tuple[int, str, bytes]:
        """Status, which worker answered, body; status 0 while nobody listens."""
        request = Request(self.url + path, headers={"Accept": accept})
        try:
            with OPENER.open(request, timeout=20) as reply:
                return reply.status, reply.headers["X-Fraudstream-Served-By"], reply.read()
        except HTTPError as error:
            with error:
                return error.code, error.headers["X-Fraudstream-Served-By"], error.read()
        except OSError:
            return 0, "", b""

    def post(self, path: str, **fields: str) -> tuple[int, bytes]:
        """Status and body of a form that this worker's page would send."""
        page = self.get("/review/", accept="text/html")[2].decode()
        found = re.search(r'name="csrf" value="([^"]*)"', page)
        assert found
        data = urlencode({"csrf": found[1], **fields}).encode()
        request = Request(self.url + path, data=data, headers={"Accept": "application/json"})
        with OPENER.open(request, timeout=20) as reply:
            return reply.status, reply.read()

    def wipe(self) -> None:
        """Kill it, throw its state away, start it again."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.state)
        self.start()

    def start(self) -> None:
        """Start it again."""
        self.process = self._start()

    def stop(self) -> None:
        stop(self.process)


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[Worker]]:
    for command in ("topics", "migrate"):
        assert fraudstream(settings, command).returncode == 0
    two = [Worker(settings, tmp_path) for _ in range(2)]
    yield two
    for worker in two:
        worker.stop()
        print(worker.log.read_text()[-3000:])


def fraudstream(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environ_of(settings), capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not done in time"
        time.sleep(0.2)


async def produce(settings: Settings) -> None:
    """Transactions of every card in event time order, and some records that are none."""
    producer = AIOKafkaProducer(**client_kwargs(settings))
    topic = Topics(settings).transactions.name
    await producer.start()
    try:
        for number in range(EACH):
            for index, card in enumerate(CARDS):
                record = tx(
                    f"{index}-{number}",
                    card=card,
                    terminal=TERMINALS[(number + index) % len(TERMINALS)],
                    at=number * 7 * MINUTE + index,
                    amount=1 + 13 * number,
                )
                await producer.send(topic, orjson.dumps(record), key=card.encode())
        for number in range(DEAD):
            await producer.send(topic, b"{bad", key=f"k{number}".encode())
    finally:
        await producer.stop()


async def produce_card_tests(settings: Settings) -> None:
    """Payments of now that a default rule wants to see: the last of twenty small ones of a card."""
    producer = AIOKafkaProducer(**client_kwargs(settings))
    topic = Topics(settings).transactions.name
    now = time.time_ns() // 1_000_000 - 1_000
    await producer.start()
    try:
        for card in TESTED:
            for number in range(20):
                record = tx(f"{card}-{number}", card=card, at=now - T0 + number, amount=1)
                await producer.send(topic, orjson.dumps(record), key=card.encode())
    finally:
        await producer.stop()


async def decide(settings: Settings, worker: Worker, alert: Any) -> tuple[list[Any], Any, float]:
    """Decide an alert as genuine: labels on their topic, what the worker says, seconds until the labels were there."""
    spec = Topics(settings).labels
    tps = [TopicPartition(spec.name, number) for number in range(spec.partitions)]
    async with consumer(settings) as reader:
        reader.assign(tps)
        for tp, end in (await reader.end_offsets(tps)).items():
            reader.seek(tp, end)
        began = time.monotonic()
        posting = asyncio.create_task(
            asyncio.to_thread(
                worker.post,
                "/review/verdict",
                alert=alert["alert_id"],
                verdict="genuine",
                seen=alert["seen"],
            )
        )
        found: list[Any] = []
        async with asyncio.timeout(60):
            while len(found) < len(alert["transactions"]):
                fetched = await reader.getmany(*tps, timeout_ms=200)
                found += [record for records in fetched.values() for record in records]
        seconds = time.monotonic() - began
        status, said = await posting
    assert status == 200
    return [json.loads(record.value) for record in found], json.loads(said), seconds


def caught_up(workers: list[Worker]) -> bool:
    for worker in workers:
        status, _, body = worker.get("/index.json")
        if status != 200:
            return False
        overview = json.loads(body)
        if not overview["ready"] or not overview["partitions"]:
            return False
        if any(stage["lag"] != 0 for stage in overview["stages"].values()):
            return False
    return True


def every_key(worker: Worker) -> dict[tuple[str, str], bytes]:
    """The JSON of every card and terminal, asked of one worker."""
    found = {}
    for kind, identifiers in (("card", CARDS), ("terminal", TERMINALS)):
        for identifier in identifiers:
            address = json_path_of(kind, identifier) or path_of(kind, identifier)
            status, _, body = worker.get(address)
            assert status == 200, (identifier, status, body)
            assert json.loads(body)["id"] == identifier
            found[kind, identifier] = body
    return found


def counted(workers: list[Worker], metric: str) -> dict[str, float]:
    """A metric of all workers together, by its `outcome`."""
    sums: dict[str, float] = {}
    for worker in workers:
        _, _, text = worker.get("/metrics", accept="*/*")
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                if sample.name == metric:
                    outcome = sample.labels["outcome"]
                    sums[outcome] = sums.get(outcome, 0) + sample.value
    return sums


def test_two_workers_answer_as_one(settings: Settings, workers: list[Worker]) -> None:
    first, second = workers
    wait_until(lambda: all(w.get("/health/ready")[0] == 200 for w in workers))
    asyncio.run(produce(settings))
    last = f"tx-{len(CARDS) - 1}-{EACH - 1}"
    total = EACH * len(CARDS)

    def all_done() -> (
        bool
    ):  # lag alone does not say so: it is 0 until a fetch tells where the log ends
        scored = counted(workers, "fraudstream_outcomes_total").get("scored", 0)
        return (
            scored == total and caught_up(workers) and first.get(f"/transactions/{last}/")[0] == 200
        )

    wait_until(all_done)

    # either worker answers for every key, with the same bytes; some of them are the other's
    before = every_key(first)
    assert every_key(second) == before
    served = {first.get(f"/cards/c{number}/")[1] for number in range(12)}
    assert served == {first.url, second.url}
    for card in ODD_CARDS:
        status, _, page = second.get(path_of("card", card), accept="text/html")
        assert status == 200
        assert b"<script" not in page

    # what a card shows is what its newest transaction was scored with, to the bit
    for index, card in enumerate(CARDS):
        state = json.loads(before["card", card])
        assert (state["entries"], state["exact"]) == (EACH, True)
        assert state["newest_event_time_ms"] == T0 + (EACH - 1) * 7 * MINUTE + index
        _, _, body = first.get(f"/transactions/tx-{index}-{EACH - 1}/")
        scored = json.loads(body)["features"]
        assert state["features"] == {name: scored[name] for name in state["features"]}

    # every record is counted once
    outcomes = counted(workers, "fraudstream_outcomes_total")
    assert (outcomes["enriched"], outcomes["scored"], outcomes["dead"]) == (total, total, DEAD)
    overviews = [json.loads(worker.get("/index.json")[2]) for worker in workers]
    assert sum(overview["sink"]["rows"] for overview in overviews) == total
    assert all(overview["latency_ms"]["p99"] > 0 for overview in overviews)
    assert [overview["workers"] for overview in overviews] == [overviews[0]["workers"]] * 2

    # the page of models adds up both workers
    for worker in workers:
        found = json.loads(worker.get("/models.json")[2])
        assert (found["faults"], found["changes_fault"], found["gates_fault"]) == ({}, None, None)
        model = found["decides"]["model"]
        assert [group["model"] for group in found["partitions"]] == [model]
        assert found["partitions"][0]["partitions"] == list(range(settings.partitions))
        assert (found["changes"][-1]["change"], found["changes"][-1]["model"]) == ("start", model)
        assert found["lineage"][model]["facts"]["Source"].startswith("simulated cards")
        assert b"No drift in" not in worker.get("/models/", accept="text/html")[2]  # too few

    def sampled(worker: Worker) -> bool:
        drift = json.loads(worker.get("/models.json")[2])["drift"].get(model)
        return drift is not None and 0 < drift["transactions"] <= total

    wait_until(lambda: all(sampled(worker) for worker in workers))

    # unknown ones are one line
    for worker in workers:
        for kind in ("card", "terminal", "transaction"):
            status, _, body = worker.get(f"/{kind}s/nope.json")
            assert (status, list(json.loads(body))) == (404, ["error"])

    # the commands say the same
    shown = fraudstream(settings, "card", "a/b", "--json", "--url", first.url)
    assert (shown.returncode, shown.stdout) == (0, before["card", "a/b"])
    assert b"15 transactions" in fraudstream(settings, "card", "..", "--url", second.url).stdout
    assert fraudstream(settings, "card", "nope", "--url", first.url).returncode == 4
    shown = fraudstream(settings, "transaction", last, "--json")
    assert json.loads(shown.stdout)["transaction_id"] == last
    assert fraudstream(settings, "transaction", "nope").returncode == 4
    assert json.loads(fraudstream(settings, "deadletters", "--json").stdout)["total"] == DEAD
    refused = json.loads(second.get("/dead-letters.json?reason=invalid_json")[2])
    assert (refused["counts"], refused["complete"]) == ({"invalid_json": DEAD}, True)
    assert [one["value"] for one in refused["dead_letters"]] == ["{bad"] * DEAD

    # one worker is killed and loses its state: until that is rebuilt there is no answer, never a wrong one
    first.wipe()
    seen = set()

    def rebuilt() -> bool:
        for card in CARDS[:6]:
            status, _, body = second.get(path_of("card", card))
            seen.add(status)
            assert status in {200, 503}, (card, status, body)
            assert status == 503 or body == before["card", card]
        return caught_up(workers)

    wait_until(rebuilt, 120)
    assert every_key(first) == every_key(second) == before

    # the dashboard of either shows both, a card's page its transactions; search finds any id; a label that a page sets
    # is stored beside its transaction
    for worker in workers:
        _, _, board = worker.get("/", accept="text/html")
        assert b"2 of 2" in board
        assert first.url[7:].encode() in board
        assert second.url[7:].encode() in board
        assert (
            f"/transactions/{last}/".encode()
            in worker.get(path_of("card", CARDS[-1]), "text/html")[2]
        )
        for kind, name in (("transaction", last), ("card", "c1"), ("terminal", "t1")):
            found = json.loads(worker.get(f"/search.json?id={name}")[2])
            assert found == {"found": [{"kind": kind, "path": path_of(kind, name)}], "faults": []}
    row = json.loads(first.get(f"/transactions/{last}/")[2])
    status, said = first.post(
        "/label",
        transaction=last,
        card=row["card_id"],
        event_time_ms=str(row["event_time_ms"]),
        verdict="fraud",
    )
    assert (status, json.loads(said)["verdict"]) == (200, "fraud")

    def label() -> (
        dict[str, object] | None
    ):  # a client that asks for JSON is not kept waiting until it is stored
        shown: dict[str, object] | None = json.loads(second.get(f"/transactions/{last}/")[2])[
            "label"
        ]
        return shown

    wait_until(lambda: (label() or {}).get("is_fraud") is True)
    assert (
        b"<rect" in second.get(f"/transactions/{last}/", accept="text/html")[2]
    )  # what moved its score
    assert (
        json.loads(first.post("/review/next")[1])["next"] is None
    )  # these alerts are of years ago

    # two cards are tested with small payments: a verdict is on the topic of labels, and the other alert is there
    asyncio.run(produce_card_tests(settings))
    newest = [path_of("transaction", f"tx-{card}-19") for card in TESTED]
    wait_until(lambda: all(json.loads(first.get(one)[2]).get("alert_id") for one in newest))
    wait_until(lambda: json.loads(first.get("/review.json")[2])["open"] == 2)
    alert = json.loads(first.post("/review/next")[1])["next"]
    flagged = alert["transactions"]  # the last one by the rule; the model may have flagged others
    page = second.get(f"/review/?alert={alert['alert_id']}", "text/html")[2]
    assert b"rule many-small-amounts" in page
    alert_link = path_of("alert", alert["alert_id"]).encode()
    tested = path_of("transaction", flagged[0]["transaction_id"])
    assert alert_link in second.get(tested, "text/html")[2]
    sent, said, seconds = asyncio.run(decide(settings, first, alert))
    assert {one["transaction_id"] for one in sent} == {one["transaction_id"] for one in flagged}
    assert {one["is_fraud"] for one in sent} == {False}
    assert said["labels"] == len(flagged)
    assert said["next"]["card_id"] == TESTED[alert["card_id"] == TESTED[0]]
    print(f"the verdict was on the topic of labels after {seconds * 1_000:.0f} ms")

    # all labels count for the live precision, if their transactions were flagged
    also = row["action"] != "approve"

    def labelled() -> list[int]:
        told = [json.loads(worker.get("/live.json")[2])["labelled"] for worker in workers]
        return [sum(one[name] for one in told) for name in ("flagged", "frauds")]

    wait_until(lambda: labelled() == [also + len(flagged), also])

    # without any worker a command says so
    for worker in workers:
        worker.stop()
    gone = fraudstream(settings, "card", "c1", "--url", first.url)
    assert gone.returncode == 3
    assert gone.stderr.decode() == (
        f"fraudstream: no worker answers at {first.url}: start one with `fraudstream worker`\n"
    )
