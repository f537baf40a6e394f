"""The load on `POST /score`: every answer is counted, and an answer that is not its row is found."""

from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.errors import UnavailableError
from app.lab.bench.latency import live_load
from app.lab.bench.score_load import NO_ANSWER, Answers, differences, request_all, require_scored

ANSWER = {"transaction_id": "t-1", "score": 0.25, "is_fraud": False, "action": "approve"}


async def test_every_answer_is_counted() -> None:
    seen: list[dict[str, Any]] = []

    async def post(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.content_type == "application/json"
        body = await request.json()
        seen.append(body)
        status = (200, 429, 504, NO_ANSWER)[(len(seen) - 1) % 4]
        if status == NO_ANSWER:
            assert request.transport
            request.transport.close()
        return web.json_response({"transaction_id": body["transaction_id"]}, status=status or 500)

    application = web.Application()
    application.router.add_post("/score", post)
    load = live_load(400.0, 0.1, seed=1)
    async with TestServer(application) as server:
        answers = await request_all(str(server.make_url("")).rstrip("/"), load, "secret")
    assert len(load) == len(load.behind) == 40
    assert answers.statuses == Counter({200: 10, 429: 10, 504: 10, NO_ANSWER: 10})
    assert len(answers.took_ms) == 40
    assert {one["transaction_id"] for one in answers.scored} == {
        body["transaction_id"] for body in seen[::4]
    }


def test_quantiles_are_of_all_answers() -> None:
    found = Answers(took_ms=[float(n) for n in range(1000, 0, -1)]).quantiles_ms()
    assert found == {"p50": 501, "p99": 991, "p99.9": 1000}


def test_a_load_without_any_score_is_refused() -> None:
    refused = Answers([1.0] * 9, Counter({504: 7, 429: 1, NO_ANSWER: 1}))
    with pytest.raises(UnavailableError, match="1 with no answer, 1 with 429, 7 with 504: "):
        require_scored(refused)
    require_scored(Answers([1.0], Counter({200: 1}), [ANSWER]))


def test_an_answer_that_is_not_its_row_is_found() -> None:
    others = [{**ANSWER, "transaction_id": f"t-{n}"} for n in (2, 3, 4, 5)]
    rows = [
        ("t-1", 0.25, False, "approve"),
        ("t-2", 0.5, False, "approve"),
        ("t-3", 0.25, True, "approve"),
        ("t-4", 0.25, False, "review"),
    ]
    found = differences([ANSWER, *others], iter(rows))
    assert found == [(others[0], rows[1]), (others[1], rows[2]), (others[2], rows[3]), (others[3], None)]  # fmt: skip
