"""`POST /score` at two real workers: the answer is the row, whichever worker is asked, and however often.

Some of the callers are traced: their traces lead to the row. One asks as docs/score.md does, some as the bench does.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from app.domain.transaction import hash_id
from app.errors import VerificationError
from app.lab.bench.latency import live_load
from app.lab.bench.score_load import compare, request_all
from app.settings import Settings
from tests.builders import T0, tx_bytes
from tests.collector import Collector, attributes
from tests.deployment import Deployment, Position, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

OPENER = build_opener(ProxyHandler({}))
TOKEN = "a token of this test"
COUNT, AT_ONCE, LOAD = 120, 12, 60
DOCUMENT = Path(__file__).parents[2] / "docs/score.md"


#: The spans of producers; the second one's is not sampled.
CALLER, UNSAMPLED, PRODUCER = (
    (f"00-{number:032x}-{number:016x}-{flags}", f"{number:032x}")
    for number, flags in ((0xA11, "01"), (0xB22, "00"), (0xC33, "01"))
)


def post(
    url: str, body: bytes, token: str = TOKEN, **further: str
) -> tuple[int, Mapping[str, Any]]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **further}
    request = Request(f"{url}/score", body, headers, method="POST")
    try:
        with OPENER.open(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def ask_as_documented(url: str) -> dict[str, Any]:
    """What the client of docs/score.md gets for the transaction of its curl command."""
    text = DOCUMENT.read_text()
    (client,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (body,) = re.findall(r"curl .*?-d '(.*?)'", text, re.DOTALL)
    (shown,) = re.findall(r"'\n(\{\n.*?\n\})\n", text, re.DOTALL)
    found: dict[str, Any] = {}
    client = client.replace("https://fraud.bank.example", url).replace(
        "Bearer ...", f"Bearer {TOKEN}"
    )
    exec(client, found)  # our own document
    with found["session"] as session:
        session.trust_env = False  # no proxy
        answer: dict[str, Any] = found["score"]({**json.loads(body), "event_time": T0}, attempts=40)
    assert set(re.findall(r'"(\w+)":', shown)) <= set(answer)
    return answer


def test_answers_are_the_rows(settings: Settings, tmp_path: Path) -> None:
    wanted = {"score": True, "score_timeout": 60_000}
    settings = settings.model_copy(update=wanted)
    settings.model_fields_set.update(wanted)
    deployment = Deployment(settings)
    deployment.prepare()
    sent = [
        tx_bytes(n, card=f"c{n % 9}", terminal=f"t{n % 4}", at=n * 60_000) for n in range(COUNT)
    ]
    with Collector() as collector:
        environ = {
            **environ_of(settings),
            "FRAUDSTREAM_SCORE_TOKEN": TOKEN,
            "FRAUDSTREAM_TRACE_ENDPOINT": collector.url,
            "FRAUDSTREAM_TRACE_SHARE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        check_answers(deployment, environ, tmp_path, sent, collector)


def check_answers(
    deployment: Deployment,
    environ: dict[str, str],
    folder: Path,
    sent: list[bytes],
    collector: Collector,
) -> None:
    with Fleet(environ, folder) as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        urls = [fleet["a"].url, fleet["b"].url]
        with ThreadPoolExecutor(AT_ONCE) as callers:
            said = list(callers.map(lambda n: post(urls[n % 2], sent[n]), range(COUNT)))
        assert {status for status, _ in said} == {200}
        # asked again, at the other worker: nothing is scored twice
        again = [post(urls[(n + 1) % 2], sent[n]) for n in range(10)]
        assert [answer.pop("repeated") for _, answer in again] == [True] * 10  # type: ignore[attr-defined]
        # the same id with another amount is a transaction of its own, and the stream goes on beside it
        status, other = post(
            urls[0], tx_bytes(3, card="c3", terminal="t3", at=3 * 60_000, amount=9_000)
        )
        assert (status, "conflicting" in other["flags"]) == (200, True)
        further = [
            Send(tx_bytes(COUNT + n, card="c1", at=(COUNT + n) * 60_000), b"c1", headers=headers)
            for n, headers in enumerate([
                (), (("traceparent", PRODUCER[0].encode()), ("tracestate", b"theirs=1")),
                (("traceparent", UNSAMPLED[0].encode()),),
            ])
        ]  # fmt: skip
        (_, position, _) = deployment.send(further)
        for n, url in enumerate(
            urls
        ):  # one of them has the card's partition, the other one forwards
            body = tx_bytes(COUNT + 3 + n, card="c2", terminal="t2", at=(COUNT + 3 + n) * 60_000)
            caller = CALLER[0].replace("a11", f"a1{n}")
            assert post(url, body, traceparent=caller)[0] == 200
        assert post(urls[0], sent[0], token="wrong")[0] == 401
        assert post(urls[0], b"{")[1]["reason"] == "invalid_json"
        documented = ask_as_documented(urls[0])
        load = live_load(200.0, LOAD / 200.0, seed=1)
        loaded = asyncio.run(request_all(urls[1], load, TOKEN))
        deployment.drain()
        report = deployment.verify()
        traces = [CALLER[1].replace("a11", f"a1{n}") for n in range(2)] + [PRODUCER[1]]
        wait_until(lambda: all(len(collector.of(trace)) == 3 for trace in traces), "the traces")
    check_traces(deployment, collector, traces, position)
    assert report["scored"] == COUNT + 6 + LOAD
    assert (report["duplicate"], report["conflicting"]) == (10, 1)
    assert loaded.statuses == {200: LOAD}
    compare(deployment.settings, loaded.scored)
    with pytest.raises(VerificationError, match="1 answers differ from their rows"):
        compare(deployment.settings, [{**loaded.scored[0], "action": "decline"}])
    columns = ("transaction_id", "score", "model_version")
    rows = {row[0]: row for row in deployment.rows(*columns)}
    for answer in [*(answer for _, answer in said), *(answer for _, answer in again), documented]:
        assert tuple(answer[name] for name in columns) == rows[answer["transaction_id"]]


def check_traces(
    deployment: Deployment, collector: Collector, traces: list[str], position: Position
) -> None:
    """One trace from each producer's span to the row in Cassandra, and no others."""
    assert {span.trace_id.hex() for _, span in collector.spans} == set(traces)
    for trace in traces:
        spans = collector.of(trace)
        assert int(spans["cards"].parent_span_id.hex(), 16) == int(trace, 16)
        assert spans["scoring"].parent_span_id == spans["cards"].span_id
        assert spans["sink"].parent_span_id == spans["scoring"].span_id
        times = [
            getattr(spans[name], f"{end}_time_unix_nano")
            for name in ("cards", "scoring", "sink")
            for end in ("start", "end")
        ]
        assert times == sorted(times)
    topics = deployment.topics
    first = attributes(collector.of(PRODUCER[1])["cards"])
    assert first["messaging.destination.name"] == topics.transactions.name
    assert first["messaging.destination.partition.id"] == str(position[0])
    assert first["messaging.kafka.offset"] == position[1]
    assert first["fraudstream.transaction_hash"] == hash_id(f"tx-{COUNT + 1}").hex()
    last = attributes(collector.of(PRODUCER[1])["sink"])
    stored = [
        record
        for record in deployment.records(topics.predictions)
        if (record.partition, record.offset)
        == (int(last["messaging.destination.partition.id"]), last["messaging.kafka.offset"])
    ]
    assert json.loads(stored[0].value)["transaction_id"] == f"tx-{COUNT + 1}"
    assert dict(stored[0].headers)["tracestate"] == b"theirs=1"
    # no card content: neither ids nor amounts of the transactions
    assert not any(name in collector.raw for name in (b"tx-", b"card_id", b"amount", b"terminal"))
