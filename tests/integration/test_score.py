"""`POST /score` at two real workers: the answer is the row, whichever worker is asked, and however often."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.stack import environ_of

pytestmark = pytest.mark.integration

OPENER = build_opener(ProxyHandler({}))
TOKEN = "a token of this test"
COUNT, AT_ONCE = 120, 12


def post(url: str, body: bytes, token: str = TOKEN) -> tuple[int, Mapping[str, Any]]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = Request(f"{url}/score", body, headers, method="POST")
    try:
        with OPENER.open(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_answers_are_the_rows(settings: Settings, tmp_path: Path) -> None:
    wanted = {"score": True, "score_timeout": 60_000}
    settings = settings.model_copy(update=wanted)
    settings.model_fields_set.update(wanted)
    deployment = Deployment(settings)
    deployment.prepare()
    sent = [
        tx_bytes(n, card=f"c{n % 9}", terminal=f"t{n % 4}", at=n * 60_000) for n in range(COUNT)
    ]
    with Fleet(environ_of(settings) | {"FRAUDSTREAM_SCORE_TOKEN": TOKEN}, tmp_path) as fleet:
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
        deployment.send([Send(tx_bytes(COUNT, card="c1", at=COUNT * 60_000), b"c1")])
        assert post(urls[0], sent[0], token="wrong")[0] == 401
        assert post(urls[0], b"{")[1]["reason"] == "invalid_json"
        deployment.drain()
        report = deployment.verify()
    assert (report["scored"], report["duplicate"], report["conflicting"]) == (COUNT + 1, 10, 1)
    columns = ("transaction_id", "score", "model_version")
    rows = {row[0]: row for row in deployment.rows(*columns)}
    for answer in [*(answer for _, answer in said), *(answer for _, answer in again)]:
        assert tuple(answer[name] for name in columns) == rows[answer["transaction_id"]]
