"""The pages as a browser sees them: headless Chromium, where one is installed."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.metrics.history import Totals
from app.metrics.recorders import LATENCY_BOUNDS_MS
from app.web import live
from app.web.views import install
from tests.browser import CHROMIUM, Browser, browser
from tests.unit.test_dashboard import told
from tests.web_worker import HOUR, DictWorker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
HOSTILE = "<script>document.title='owned'</script>"
#: A phone, a laptop, a wall.
WIDTHS = (390, 1_280, 2_200)


class Busy(DictWorker):
    """A worker whose counters move."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = itertools.count()

    def totals(self) -> Totals:
        second = next(self._seconds)
        latency = [second * 10] * 20 + [0] * (len(LATENCY_BOUNDS_MS) - 19)
        return Totals(second * 1_000, second, second, latency)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path / "profile") as one:
        yield one
        assert one.faults == []


async def served(worker: DictWorker) -> TestServer:
    app = web.Application()
    install(app, worker)
    server = TestServer(app)
    await server.start_server()
    return server


async def fits(page: Browser) -> None:
    """Nothing is wider than the page: tables scroll in their own boxes."""
    for width, dark in itertools.product(WIDTHS, (False, True)):
        await page.look(width, dark=dark)
        assert await page.run("document.documentElement.scrollWidth") <= width, (width, dark)


async def test_pages_are_rendered_and_ids_stay_text(page: Browser) -> None:
    worker = DictWorker()
    worker.add(HOSTILE, [0, HOUR], minor=1250)
    server = await served(worker)
    try:
        await page.open(server.make_url("/cards/").with_query(id=HOSTILE))
        assert "12.50" in await page.run("document.body.innerText")
        assert HOSTILE in await page.run("document.querySelector('h1').innerText")
        assert "owned" not in await page.run("document.title.split(' · ')[1]")
        await fits(page)
        page.faults.clear()
    finally:
        await server.close()


async def test_the_dashboard_is_live(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.dashboard._STREAM_SECONDS", 1.5)
    worker = Busy()
    worker.newest_alerts = [told(card=HOSTILE, reasons=["amount 500.00 is high"])]
    server = await served(worker)
    try:
        await page.open(server.make_url("/"))
        await page.until("document.getElementById('connection').innerText === 'Live'")
        await page.until("document.getElementById('strip').innerText.includes('1,000.0')")
        assert HOSTILE in await page.run("document.getElementById('recent').innerText")
        # what changes is there without a reload, also after the stream began again
        streams = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/live'))"
        await page.until(f"{streams}.length > 1")
        worker.newest_alerts = [told(card="newcomer")]
        worker.not_ready = ["Kafka does not answer"]
        await page.until("document.getElementById('recent').innerText.includes('newcomer')")
        await page.until("document.getElementById('waits').innerText.includes('Kafka does not')")
        await page.until("document.querySelectorAll('.u-legend').length === 4")
        points: Any = server.app[live.LIVE]._history.points
        assert len(points) >= 1
        await fits(page)
    finally:
        worker.stopping = True
        await server.close()
