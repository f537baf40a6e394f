"""The dashboard: the last hour, several workers as one, what a page is told, and who sees what."""

import asyncio
import json
from collections import Counter
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient

from app.metrics.last_hour import (
    KEPT,
    STEP_SECONDS,
    CounterSpan,
    CounterTotals,
    LastHour,
    merged,
    together,
)
from app.metrics.latency_histogram import LATENCY_BOUNDS_MS
from app.stages.recent_alerts import RecentAlerts
from app.web import page_templates
from app.web.access.checks import AccessChecks
from app.web.access.users import token_line
from app.web.dashboard_data import DashboardData
from app.web.dashboard_page import STREAMS
from app.web.worker_requests import PROOF_HEADER, PeerAnswer
from tests.builders import T0
from tests.prediction_builder import prediction
from tests.unit.test_web_alerts import POLICY
from tests.web_worker import DictWorker, client_of

OTHER = "http://127.0.0.1:6067"


def latency(**observed: int) -> list[int]:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for bucket, count in observed.items():
        counts[int(bucket[1:])] = count
    return counts


def told(**fields: Any) -> dict[str, Any]:
    row = POLICY.alert(prediction(**{"number": 1, "is_fraud": True, **fields}))
    assert row is not None
    return row


def test_an_hour_is_kept_in_steps_that_workers_share() -> None:
    history = LastHour()
    for second in range(2 * 3_600):
        history.tick(
            T0 / 1000 + second, CounterTotals(second * 5, second, 2 * second, latency(b3=second)), 7
        )
    assert len(history.points) == KEPT
    assert {point.at % STEP_SECONDS for point in history.points} == {0}
    newest = history.points[-1]
    assert (newest.seconds, newest.records, newest.rate, newest.lag) == (10, 50, 5.0, 7)
    assert (newest.dead_share, newest.alerts_per_minute, newest.latency) == (0.2, 120.0, {3: 10})
    minute = history.last(60)
    assert (minute.seconds, minute.records) == (60, 300)
    assert history.since(newest.at - 25) == list(history.points)[-3:]
    assert CounterSpan.read(json.loads(json.dumps(newest.as_dict()))) == newest


def test_a_worker_that_has_just_started_says_nothing() -> None:
    history = LastHour()
    span = history.last(60)
    assert (span.rate, span.dead_share, span.alerts_per_minute) == (0.0, None, 0.0)
    assert span.quantile(0.5) is None
    history.tick(T0 / 1000, CounterTotals(900, latency=latency(b1=4)), None)
    assert history.last(10).records == 0  # what was before is no part of it


def test_workers_together() -> None:
    one = CounterSpan(100, 10, 30, 3, 1, {1: 9, 70: 1}, 5)
    other = CounterSpan(100, 10, 10, 1, 0, {1: 90}, None)
    both = together([one, other])
    assert (both.records, both.dead, both.alerts, both.lag) == (40, 4, 1, 5)
    assert both.latency == {1: 99, 70: 1}
    median, worst = both.quantile(0.5), both.quantile(1.0)
    assert median is not None
    assert worst is not None
    assert median < LATENCY_BOUNDS_MS[1] < worst
    later = CounterSpan(110, 10, 1)
    assert [point.at for point in merged([[one, later], [other]])] == [100, 110]


def test_newest_alerts_are_those_of_this_deployment_once() -> None:
    recent = RecentAlerts("mine")
    rows = [told(number=number, received_at=number, source_offset=number) for number in range(60)]
    records = [type("R", (), {"value": orjson.dumps({**row, "scored_by": "mine"})}) for row in rows]
    another = type("R", (), {"value": orjson.dumps({**rows[0], "scored_by": "theirs"})})
    recent.heard(0, records, None)
    recent.heard(0, [*records[-1:], another], None)
    found = recent.newest()
    assert [row["received_at"] for row in found] == list(range(59, 11, -1))


async def events(client: TestClient, count: int, **headers: str) -> list[dict[str, Any]]:
    """The first events of the page's stream."""
    found = []
    async with client.get("/live", headers=headers) as reply:
        assert reply.content_type == "text/event-stream"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        async for line in reply.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    return found
    return found


async def test_a_page_is_told_what_is_new_and_nothing_twice() -> None:
    worker = DictWorker()
    worker.newest_alerts = [told(card="c/<1>", reasons=["<odd>"])]
    worker.answers[f"{OTHER}/live.json?since=0"] = (404, "text/html", b"")
    async with client_of(worker) as client:
        page = await (await client.get("/")).text()
        first, second = await events(client, 2)
    assert "1 of 2" in first["html"]["figures"]  # one answers 404
    assert f"{OTHER}</span>: it answers with status 404" in first["html"]["waits"]
    assert "paused for alignment with labels/2" in first["html"]["partitions"]
    assert 'href="/cards/c%2F%3C1%3E/"' in first["html"]["alerts"]
    assert "&lt;odd&gt;" in first["html"]["alerts"]
    assert second["html"] == {}
    for part in ("figures", "alerts", "partitions"):
        assert first["html"][part].strip() in page  # without scripts, the same


async def test_a_stream_ends_with_its_worker() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        async with client.get("/live") as reply:
            await reply.content.readline()
            worker.stopping = True
            await asyncio.wait_for(reply.content.read(), 30)
        assert (await client.head("/live")).status == 200


async def test_workers_are_shown_as_one(tmp_path: Any) -> None:
    viewer, analyst = token_line("prom", "viewer"), token_line("ann", "analyst")
    users = tmp_path / "users"
    users.write_text(f"{viewer[1]}\n{analyst[1]}\n")
    settings = {"web_host": "0.0.0.0", "web_users": users, "web_secret": "s" * 32}
    here, there = DictWorker(**settings), DictWorker(OTHER, **settings)
    there.newest_alerts = [told(card="elsewhere")]
    here.counted = there.counted = CounterTotals(latency=latency())

    async with client_of(there) as peer:

        async def forward(url: str, method: str, headers: Any, body: Any = None) -> Any:
            reply = await peer.request(method, url.removeprefix(OTHER), headers=headers)
            kind = reply.headers["Content-Type"]
            return PeerAnswer(
                reply.status, kind, await reply.read(), reply.headers.get(PROOF_HEADER, "")
            )

        here.forward = forward  # type: ignore[method-assign]
        async with client_of(here) as client:
            seen = {}
            for name, token in (("viewer", viewer[0]), ("analyst", analyst[0])):
                (seen[name],) = await events(client, 1, Authorization=f"Bearer {token}")
            assert (await client.get("/live")).status == 401
            plain = {"Authorization": f"Bearer {viewer[0]}"}
            own = await (await client.get("/live.json", headers=plain)).json()
    assert "2 of 2" in seen["analyst"]["html"]["figures"]
    assert "elsewhere" in seen["analyst"]["html"]["alerts"]
    assert "elsewhere" not in seen["viewer"]["html"]["alerts"]
    assert own["alerts"] == []


async def test_points_of_all_workers_are_drawn_once_they_are_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = DictWorker()
    live = DashboardData(worker, AccessChecks(worker.settings, worker.url, {}))
    monkeypatch.setattr("app.web.dashboard_data.time.time", lambda: 1_000.0)
    points = [CounterSpan(at, 10, 50, alerts=1, lag=at).as_dict() for at in (980, 990, 1_000)]
    answer = orjson.dumps({**await live.own(0), "points": points})
    worker.answers[f"{OTHER}/live.json?since=0"] = (200, "application/json", answer)
    await live.refresh()
    assert [point[:2] for point in live.board(may_see_cards=True)["points"]] == [
        [980, 5.0], [990, 5.0],
    ]  # fmt: skip
    assert [point[0] for point in live.board(may_see_cards=True, since=985)["points"]] == [990]
    worker.owners = lambda: {worker.url: [0, 1, 2, 3]}  # type: ignore[method-assign]
    monkeypatch.setattr("app.web.dashboard_data.REFRESH_SECONDS", 0)
    await live.refresh()
    assert live.board(may_see_cards=True)["workers"] == 1  # one that left is forgotten


async def test_pages_share_what_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, rendered = DictWorker(), Counter[str]()
    render = page_templates.render

    def counted(template: str, **context: Any) -> str:
        rendered[template] += 1
        return render(template, **context)

    monkeypatch.setattr("app.web.dashboard_page.page_templates.render", counted)
    monkeypatch.setattr("app.web.dashboard_data.REFRESH_SECONDS", 3_600.0)  # one look
    async with client_of(worker) as client:
        told = await asyncio.gather(*(events(client, 1) for _ in range(5)))
    assert all(one == told[0] for one in told)
    assert rendered["dashboard_figures.html"] == 1


async def test_streams_of_a_worker_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.dashboard_page._MOST_STREAMS", 1)
    async with client_of(DictWorker()) as client:
        async with client.get("/live") as first:
            await first.content.readline()
            refused = await client.get("/live", headers={"Accept": "text/event-stream"})
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        # until the worker has seen that the page was closed
        while client.app[STREAMS]:  # type: ignore[index] # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert await events(client, 1)
