"""The pages as a browser sees them: headless Chromium, where one is installed."""

import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.kafka.recent_dead_letters import RecentDeadLetters
from app.metrics.last_hour import CounterTotals
from app.metrics.latency_histogram import LATENCY_BOUNDS_MS
from app.web import dashboard_data
from app.web.access.users import password_line
from app.web.pages import PAGES, install
from tests.browser import CHROMIUM, Browser, browser
from tests.unit.test_dashboard import told
from tests.unit.test_web_alerts import alert
from tests.unit.test_web_dead_letters import letter
from tests.unit.test_web_models import several_models
from tests.unit.test_web_timeline import row
from tests.unit.test_web_views import prediction
from tests.web_worker import HOUR, DictWorker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ, reason="no chromium on this machine"
    ),
]
HOSTILE = "<script>document.title='owned'</script>"
#: As long as ids are in earnest.
LONG = "4f1c33981fd7a95c"
#: A phone, a laptop, a wall.
WIDTHS = (390, 1_280, 2_200)


class Busy(DictWorker):
    """A worker whose counters move."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = itertools.count()

    def totals(self) -> CounterTotals:
        second = next(self._seconds)
        latency = [second * 10] * 20 + [0] * (len(LATENCY_BOUNDS_MS) - 19)
        return CounterTotals(second * 1_000, second, second, latency)


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


async def is_usable(page: Browser) -> None:
    """Nothing is wider than its place, and axe-core finds nothing serious."""
    for width, dark in itertools.product(WIDTHS, (False, True)):
        await page.look(width, dark=dark)
        assert await page.run("document.documentElement.scrollWidth") <= width, (width, dark)
        # on a phone, a row is a paragraph: nothing is cut off at the right
        cut = await page.run(
            "[...document.querySelectorAll('.table')].filter((one) => one.scrollWidth > one.clientWidth)"
            ".map((one) => one.innerText.slice(0, 100))"
        )
        assert cut == [], (width, dark)
        assert await page.violations() == [], (width, dark)


async def test_pages_are_rendered_and_ids_stay_text(page: Browser) -> None:
    worker = DictWorker()
    worker.add(HOSTILE, [0, HOUR], minor=1250)
    server = await served(worker)
    try:
        await page.open(server.make_url("/cards/").with_query(id=HOSTILE))
        assert "12.50" in await page.run("document.body.innerText")
        assert HOSTILE in await page.run("document.querySelector('h1').innerText")
        assert "owned" not in await page.run("document.title.split(' · ')[1]")
        await is_usable(page)
        page.faults.clear()
    finally:
        await server.close()


async def test_the_dashboard_is_live(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.dashboard_page._STREAM_SECONDS", 1.5)
    worker = Busy()
    worker.newest_alerts = [told(card=HOSTILE, reasons=["amount 500.00 is high"])]
    server = await served(worker)
    try:
        await page.open(server.make_url("/"))
        await page.until("document.getElementById('connection').innerText === 'Live'")
        await page.until("document.getElementById('figures').innerText.includes('1,000.0')")
        assert HOSTILE in await page.run("document.getElementById('alerts').innerText")
        # what changes is there without a reload, also after the stream began again
        streams = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/live'))"
        await page.until(f"{streams}.length > 1")
        worker.newest_alerts = [told(card="newcomer")]
        worker.not_ready = ["Kafka does not answer"]
        await page.until("document.getElementById('alerts').innerText.includes('newcomer')")
        await page.until("document.getElementById('waits').innerText.includes('Kafka does not')")
        await page.until("document.querySelectorAll('.u-legend').length === 4")
        await page.until(
            "/UTC.*:/s.test(document.querySelector('#chart-rate .u-legend').innerText)"
        )
        points: Any = server.app[dashboard_data.LIVE]._history.points
        assert len(points) >= 1
        await is_usable(page)
    finally:
        worker.stopping = True
        await server.close()


async def test_a_verdict_is_one_key(page: Browser) -> None:
    worker = DictWorker()
    made = [
        alert(n, card=f"card {n}", amount_minor=1_000 * (n + 1), source_offset=n) for n in range(3)
    ]
    worker.reviews.add(*made)
    server = await served(worker)
    try:
        await page.open(server.make_url("/review/"))
        await page.press("b")
        await page.until("document.querySelector('main').innerText.includes('You have this alert')")
        await is_usable(page)
        assert await page.run("document.querySelector('.verdict a').innerText") == "card 2"
        await page.press("n")  # to the note: letters are text there
        await page.press("f")
        assert await page.run("document.querySelector('[name=note]').value") == "f"
        await page.press("Enter")  # people end a line with it: that is no verdict
        assert await page.run("document.querySelector('.verdict a').innerText") == "card 2"
        assert worker.labels == []
        await page.press("Escape")
        await page.press("f")
        await page.until("document.querySelector('.verdict a')?.innerText === 'card 1'")
        assert [label["is_fraud"] for label in worker.labels] == [True]
        await page.press("l")
        await page.until("document.querySelector('.verdict a')?.innerText === 'card 0'")
        await page.press("g")
        await page.until(
            "document.querySelector('[role=status]').innerText.includes('1 decided as genuine')"
        )
        assert [label["is_fraud"] for label in worker.labels] == [True, False]
        await page.press("b")  # what was put off is not forgotten, only not offered again at once
        await page.until(
            "document.querySelector('[role=status]').innerText.includes('all open alerts are taken')"
        )
        assert len(worker.reviews.closed) == 2
    finally:
        await server.close()


async def test_an_alert_is_opened_and_taken(page: Browser) -> None:
    worker = DictWorker()
    made = [
        alert(n, card=f"card {n}", amount_minor=1_000 * (n + 1), source_offset=n,
              terminal_id="t" * 200, reasons=[f"reason {n}"], transaction_id=f"{n}-{LONG}")
        for n in range(3)
    ]  # fmt: skip
    worker.reviews.add(*made)
    worker.raised = made
    server = await served(worker)
    try:
        await page.open(server.make_url("/alerts/"))
        await page.click("tbody a")
        await page.until("document.querySelector('main').innerText.includes('Nobody has taken')")
        assert "reason 0" in await page.run("document.querySelector('main').innerText")
        await is_usable(page)
        await page.press("a")
        await page.until("document.querySelector('main').innerText.includes('You have this alert')")
        assert await page.run("document.querySelector('.verdict a').innerText") == "card 0"
        await is_usable(page)
        await page.press("t")  # all at the terminal
        await page.press("f")
        await page.until(
            "document.querySelector('[role=status]').innerText.includes('3 decided as fraud')"
        )
        assert len(worker.labels) == 3
    finally:
        await server.close()


async def test_what_analysts_fill_in_works(page: Browser) -> None:
    """The label of a transaction, the search box, and filters."""
    worker = DictWorker()
    worker.add("c1", [0])
    stored = prediction(label=None)
    worker.transactions["x1"] = stored
    send = worker.send_labels

    async def store(labels: Any) -> None:
        await send(labels)
        at = round(datetime.fromisoformat(labels[0]["labelled_at"]).timestamp() * 1000)
        label = {"is_fraud": labels[0]["is_fraud"], "labelled_at": at}
        worker.transactions["x1"] = {**stored, "label": label}

    worker.send_labels = store  # type: ignore[method-assign]
    server = await served(worker)
    try:
        await page.open(server.make_url("/"))
        await page.run("document.querySelector('form input[name=id]').focus()")
        for key in "c1":
            await page.press(key)
        await page.press("Enter")
        await page.until("location.pathname === '/search'")  # a terminal has this id, too
        await page.click("a[href='/cards/c1/']")
        await page.until("location.pathname === '/cards/c1/'")
        await page.open(server.make_url("/transactions/x1/"))
        await page.click("form.label button[value=fraud]")
        await page.until(
            "document.querySelector('[role=status]').innerText.includes('labelled as fraud')"
        )
        assert "fraud, known since" in await page.run("document.querySelector('main').innerText")
        await page.open(server.make_url("/dead-letters/"))
        await page.until("document.querySelector('[name=from]')")
        await page.run("document.querySelector('[name=from]').value = '2026-11-29'")
        await page.click("form.filters button")
        await page.until("location.search.includes('from=2026-11-29')")
        assert worker.wanted_letters is not None
        assert worker.wanted_letters.from_ms == 1_795_910_400_000
        await page.open(server.make_url("/alerts/"))
        await page.until("document.querySelector('[name=severity]')")
        await page.run("document.querySelector('[name=severity]').value = 'high'")
        await page.click("form.filters button")
        await page.until("location.search.includes('severity=high')")
        assert worker.wanted is not None
        assert worker.wanted.severity == "high"
    finally:
        worker.stopping = True
        await server.close()


async def test_somebody_logs_in_and_out(page: Browser, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"{password_line('ann', 'analyst', 'correct horse')}\n")
    worker = DictWorker(web_users=users, web_login="always")
    server = await served(worker)
    try:
        await page.open(server.make_url("/alerts/"))
        await page.until("location.pathname === '/login'")
        await page.until("document.querySelector('[name=name]')")
        await page.run("document.querySelector('[name=name]').value = 'ann'")
        await page.run("document.querySelector('[name=password]').value = 'correct horse'")
        await page.click("form.login button")
        await page.until("location.pathname === '/alerts/'")
        await page.click("form.out button")
        await page.until("document.querySelector('form.login') !== null")
        await page.open(server.make_url("/alerts/"))
        await page.until("location.pathname === '/login'")
        page.faults.clear()  # a page that refuses is an error for the console
    finally:
        await server.close()


async def test_timelines_and_bars_fit(page: Browser) -> None:
    worker = DictWorker()
    worker.add("c1", [0, HOUR])
    worker.history = [row(f"x{n}-{LONG}", alert_id="20231114T221320-00") for n in range(5)]
    worker.transactions["x1"] = prediction()
    worker.pushed = {"amount": (12.5, 0.4)}
    worker.judged = {
        **(worker.judged or {}),
        "curves": {
            "precision_recall": [[0.9, 0.5, 1.0], [0.25, 1.0, 0.75]],
            "calibration": [[0.05, 0.0, 5], [0.95, 1.0, 4]],
        },
    }
    worker.letters = RecentDeadLetters(
        [letter(), letter(key=b"k" * 400, value=HOSTILE.encode() * 40, source=f"{'t' * 90}/0/1")],
        Counter({"invalid_json": 2}),
        read=2,
    )
    server = await served(worker)
    try:
        several_models(worker)
        paths = (
            "/",
            "/alerts/",
            "/cards/c1/",
            "/dead-letters/",
            "/login",
            "/models/",
            "/quality/",
            "/review/",
            "/search/?id=c1",
            "/terminals/c1/",
            "/transactions/x1/",
        )
        # so that no page is forgotten; those of an id have a pattern at the end
        every = {one.path for one in PAGES if one.path.endswith("/")}
        assert every <= {path.partition("?")[0] for path in paths}
        for path in paths:
            await page.open(server.make_url(path))
            await is_usable(page)
            if path == "/quality/":  # the script has drawn over the lines
                await page.until("document.querySelectorAll('.chart .u-legend').length === 2")
    finally:
        worker.stopping = True
        await server.close()


async def test_pages_with_nothing_to_show_are_usable(page: Browser) -> None:
    worker = DictWorker()
    worker.judged = None  # being measured
    server = await served(worker)
    try:
        for path in (
            "/",
            "/alerts/",
            "/dead-letters/",
            "/models/",
            "/quality/",
            "/review/",
            "/search?id=no",
        ):
            await page.open(server.make_url(path))
            await is_usable(page)
        page.faults.clear()  # a page with status 404 is an error for the console
        await page.open(server.make_url("/quality/?from=2026-11-29"))
        await page.until("document.getElementById('measuring')")
        worker.judged = DictWorker().judged
        await page.until("document.querySelector('main table')")
        assert await page.run("location.search") == "?from=2026-11-29"
    finally:
        worker.stopping = True
        await server.close()


async def test_axe_finds_an_input_without_a_name(page: Browser) -> None:
    server = await served(DictWorker())
    try:
        await page.open(server.make_url("/alerts/"))
        assert await page.violations() == []
        await page.run("document.querySelector('main').append(document.createElement('input'))")
        [found] = await page.violations()
        assert found.startswith("label: <input")
    finally:
        await server.close()
