"""`fraudstream bench --scale score`: requests to `POST /score` in an open loop, beside a load on the topic.

Each request is sent when it is due, whatever became of those before it, and its latency counts from then. Afterwards
every answer is compared with its row in Cassandra, and `fraudstream verify` recomputes everything.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from app.cassandra.prediction_queries import scan_scored
from app.cassandra.session import connected
from app.errors import UnavailableError, VerificationError
from app.kafka.topic_admin import log_ends
from app.lab.bench import backlog
from app.lab.bench.deployment import deployment
from app.lab.bench.histogram import QUANTILES
from app.lab.bench.latency import LiveLoad, live_load
from app.lab.bench.takeover import Load
from app.lab.supervisor import Workers
from app.settings import Settings
from app.topics import Topics

#: Requests and records a second, and requests by default: 20 seconds.
REQUEST_RATE, STREAM_RATE, REQUESTS = 300.0, 500.0, 6_000
_HISTORY, _WARM_UP_SECONDS = 20_000, 5.0
#: Far beyond FRAUDSTREAM_SCORE_TIMEOUT: a worker that does not answer at all.
_ANSWER_SECONDS = 60.0
#: What an answer and its row must have in common.
COMPARED = ("transaction_id", "score", "is_fraud", "action")
#: In place of a status: the connection failed.
NO_ANSWER = 0


@dataclass
class Answers:
    """What became of the requests of one load.

    Attributes:
        took_ms: from the time when a request was due to its answer, whatever the answer was.
        statuses: answers by HTTP status; `NO_ANSWER` where there was none.
        scored: predictions of those that were answered with 200.
    """

    took_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    scored: list[Mapping[str, Any]] = field(default_factory=list)

    def quantiles_ms(self) -> dict[str, float]:
        """p50, p99 and p99.9 of `took_ms`."""
        ordered = sorted(self.took_ms)
        last = len(ordered) - 1
        return {name: ordered[min(last, int(q * len(ordered)))] for name, q in QUANTILES.items()}


async def request_all(url: str, load: LiveLoad, token: str | None = None) -> Answers:
    """Send each transaction of a load to a worker when it is due; waits for all answers.

    Args:
        url: where the worker answers.
        load: from `live_load`.
        token: FRAUDSTREAM_SCORE_TOKEN of the deployment, if it has one.
    """
    answers = Answers()
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    loop = asyncio.get_running_loop()
    # no limit on connections: it would hold back requests that are due
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
        ) as client,
        asyncio.TaskGroup() as requests,
    ):
        began: float | None = None
        for due, _, body in load.items():
            began = loop.time() if began is None else began
            await asyncio.sleep(max(0.0, began + due - loop.time()))
            requests.create_task(_request(client, f"{url}/score", body, began + due, answers))
    return answers


async def _request(
    client: aiohttp.ClientSession, url: str, body: bytes, due: float, answers: Answers
) -> None:
    try:
        async with client.post(url, data=body) as reply:
            status, text = reply.status, await reply.read()
    except (aiohttp.ClientError, TimeoutError):
        status, text = NO_ANSWER, b""
    answers.took_ms.append((asyncio.get_running_loop().time() - due) * 1000)
    answers.statuses[status] += 1
    if status == 200:
        answers.scored.append(orjson.loads(text))


def differences(
    scored: Iterable[Mapping[str, Any]], rows: Iterable[tuple[Any, ...]]
) -> list[tuple[Mapping[str, Any], tuple[Any, ...] | None]]:
    """Answers that are not their rows, each with its row, None where there is none.

    Args:
        scored: predictions as `POST /score` answered.
        rows: of Cassandra, the columns of `COMPARED`.
    """
    by_id = {row[0]: row for row in rows}
    pairs = ((answer, by_id.get(answer["transaction_id"])) for answer in scored)
    return [(one, row) for one, row in pairs if row != tuple(one[name] for name in COMPARED)]


def require_scored(answers: Answers) -> None:
    """Refuse a load that says nothing about scores.

    Raises:
        UnavailableError: no request was answered with 200; the text has the statuses.
    """
    if not answers.scored:
        counts = sorted(answers.statuses.items())
        shown = ", ".join(f"{n:,} with {status or 'no answer'}" for status, n in counts)
        msg = f"no request was answered with 200, but {shown}: this machine cannot sustain the load"
        raise UnavailableError(msg)


def compare(settings: Settings, scored: Iterable[Mapping[str, Any]]) -> None:
    """Compare answers with their rows.

    Raises:
        VerificationError: one is not its row.
    """
    with connected(settings) as session:
        found = differences(scored, scan_scored(session, settings, COMPARED))
    if found:
        answer, row = found[0]
        shown = "no row" if row is None else dict(zip(COMPARED, row, strict=True))
        msg = (
            f"{len(found):,} answers differ from their rows; the first: {dict(answer)}, but {shown}"
        )
        raise VerificationError(msg)


def score_load(settings: Settings, requests: int | None) -> Iterator[dict[str, Any]]:
    """One line: a worker with some history, requests to it, and a load on the topic.

    Args:
        settings: whose servers are used.
        requests: how many; None: `REQUESTS`.

    Raises:
        VerificationError: an answer is not its row, or a row is not what `verify` recomputes.
        UnavailableError: no request was answered with 200, or a server or the worker failed.
    """
    seconds = (requests or REQUESTS) / REQUEST_RATE
    name = f"scale_{time.strftime('%H%M%S')}_score"
    with deployment(settings, name, score=True, web_host="127.0.0.1") as own:
        backlog.fill(own, _HISTORY, 99)
        warm_up = live_load(REQUEST_RATE, _WARM_UP_SECONDS, 100)
        load = live_load(REQUEST_RATE, seconds, 101)
        # it ends with the requests
        beside = live_load(STREAM_RATE, 2 * (seconds + _WARM_UP_SECONDS), 102)
        token = own.score_token.get_secret_value() if own.score_token else None
        worker = backlog.new_worker(own)
        with Workers([worker]) as workers:
            workers.await_ready()
            asyncio.run(backlog.await_rows(own, _HISTORY, workers))
            with Load(own, beside):
                first = asyncio.run(request_all(worker.url, warm_up, token))
                answers = asyncio.run(request_all(worker.url, load, token))
            sent = asyncio.run(log_ends(own, Topics(own).transactions.name))
            asyncio.run(backlog.await_rows(own, sum(sent.values()), workers))
            backlog.refuse_restarts(workers)
        require_scored(answers)
        compare(own, first.scored + answers.scored)
        backlog.check(own)
    known = (200, 429, 503, 504)
    yield {
        "requests/s": round(REQUEST_RATE),
        "stream/s": round(STREAM_RATE),
        **{f"{mark} ms": round(value, 1) for mark, value in answers.quantiles_ms().items()},
        "sent late p99 ms": round(load.behind_ms()["p99"], 1),
        "requests": len(answers.took_ms),
        **{str(status): answers.statuses[status] for status in known},
        "other": sum(n for status, n in answers.statuses.items() if status not in known),
        "equal to rows": len(answers.scored),  # all of them, or `compare` refuses
    }
