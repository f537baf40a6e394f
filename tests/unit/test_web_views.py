"""The views through a real HTTP client: JSON or page, unknown keys, routing, health, errors."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.errors import SchemaError, StateError, UnavailableError
from app.quality.decision_tally import DecisionGroup
from app.web.cached_answers import CachedAnswer
from app.web.key_owner import OwnedElsewhere, Unowned, key_owner
from app.web.key_state import key_state
from app.web.page_templates import render
from app.web.quality_data import QualityData
from app.web.readiness import why_not_ready
from app.web.url_ids import json_path_of, path_of
from tests.builders import T0
from tests.web_worker import HOUR, IDS, DictWorker, client_of, raw

JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ODD_IDS = [
    "a b", "a/b", "ü€😀", "<script>alert(1)</script>", "..", ".", "%2F", "x.json", "a+b",
    "q?x=1&y#z", "\"quo'te", "%", "new\nline", "\u202eevil", "x" * 256, "back\\slash", "{{ 7 * 7 }}",
]  # fmt: skip


def prediction(**fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": "x1",
        "card_id": "c/1",
        "terminal_id": "<b>",
        "amount_minor": 123_456,
        "event_time_ms": T0,
        "features": {"amount": 1234.56, "of_another_release": 1.5},
        "score": 0.75,
        "is_fraud": True,
        "threshold": 0.5,
        "model_version": "default@1",
        "model_hash": "abcd",
        "feature_schema": "v1",
        "reasons": ["amount <1234.56> is high"],
        "anomaly_score": None,
        "flags": ["late"],
        "source_topic": "transactions",
        "source_partition": 0,
        "source_offset": 7,
        "received_at": T0 + 1,
        "scored_at": T0 + 2,
        "extra": {"merchant": {"name": "<Acme>"}, "note": "plain"},
        "others": [],
        **fields,
    }


class Tags(HTMLParser):
    """The elements of a page, its texts and its addresses."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(" ".join([tag, *(name for name, _ in attrs)]))
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


async def test_a_card_as_json_and_as_a_page() -> None:
    worker = DictWorker()
    worker.add("c1", [0, HOUR])
    async with client_of(worker) as client:
        by_suffix = await client.get("/cards/c1.json")
        by_header = await client.get("/cards/c1/", headers=JSON)
        page = await client.get("/cards/c1/", headers=HTML)
        assert await by_suffix.read() == await by_header.read()
        assert by_suffix.content_type == "application/json"
        state = await by_suffix.json()
        assert (state["kind"], state["id"], state["entries"]) == ("card", "c1", 2)
        assert by_suffix.headers["X-Fraudstream-Served-By"] == worker.url
        assert page.content_type == "text/html"
        assert "2023-11-14 23:13:20.000" in await page.text()


@pytest.mark.parametrize("identifier", ODD_IDS)
async def test_odd_ids_work_everywhere(identifier: str) -> None:
    worker = DictWorker()
    worker.add(identifier, [0])
    worker.transactions[identifier] = prediction(
        transaction_id=identifier, card_id=identifier, terminal_id=identifier
    )
    async with client_of(worker) as client:
        for kind in ("card", "terminal", "transaction"):
            page = await client.get(raw(path_of(kind, identifier)), headers=HTML)
            assert page.status == 200, await page.text()
            tags = Tags(await page.text())
            assert not [element for element in tags.elements if element.startswith("script")]
            assert identifier in "".join(tags.texts)
            for link in tags.links:  # what the page links to answers as well
                if link.startswith(("/cards/", "/terminals/")):
                    assert (await client.get(raw(link), headers=JSON)).status == 200
        address = json_path_of("card", identifier) or path_of("card", identifier)
        reply = await client.get(raw(address), headers=JSON)
        assert (await reply.json())["id"] == identifier


@given(IDS)
@hypothesis_settings(max_examples=60)
def test_no_id_changes_the_elements_of_a_page(identifier: str) -> None:
    worker = DictWorker()
    shown = worker.add("plain", [0])

    def page(name: str) -> Tags:
        state = key_state(
            "card", name, 1, shown, worker.catalogue, currency="EUR", minor_unit_digits=2
        )
        return Tags(
            render(
                "card_or_terminal.html", state=state, timeline=[], shown=50, fault=None, links={}
            )
        )

    plain, odd = page("plain"), page(identifier)
    if identifier in (".", ".."):  # these two have no address with a suffix, so no link to it
        plain.elements.remove("a href")
        assert plain.elements.count("a href") == odd.elements.count("a href")
        return
    assert odd.elements == plain.elements
    wanted = identifier.replace("\r\n", "\n").replace("\r", "\n")
    assert wanted in "".join(odd.texts).replace("\r\n", "\n").replace("\r", "\n")


@given(line=st.text(max_size=80))
@hypothesis_settings(max_examples=40)
def test_no_error_line_changes_the_elements_of_a_page(line: str) -> None:
    plain = Tags(render("error.html", code=404, line="plain"))
    assert Tags(render("error.html", code=404, line=line)).elements == plain.elements


@pytest.mark.parametrize("kind", ["card", "terminal", "transaction"])
async def test_unknown_ones_are_one_line(kind: str) -> None:
    async with client_of(DictWorker()) as client:
        reply = await client.get(f"/{kind}s/nope.json")
        assert reply.status == 404
        assert list(await reply.json()) == ["error"]
        assert f"no {kind} 'nope'" in (await reply.json())["error"]
        page = await client.get(f"/{kind}s/nope/", headers=HTML)
        assert page.status == 404
        assert f"no {kind} 'nope'" in "".join(Tags(await page.text()).texts)


async def test_a_key_of_another_worker_is_fetched_from_it() -> None:
    worker = DictWorker()
    worker.place = OwnedElsewhere("http://127.0.0.1:6067")
    address = "http://127.0.0.1:6067/cards/a%2Fb%3F/?x=1"
    worker.answers[address] = (404, "application/json; charset=utf-8", b'{"error":"no card"}')
    async with client_of(worker) as client:
        reply = await client.get(raw("/cards/a%2Fb%3F/?x=1"), headers=JSON)
        assert (reply.status, await reply.read()) == (404, b'{"error":"no card"}')
        assert reply.headers["X-Fraudstream-Served-By"] == "http://127.0.0.1:6067"
    ((_, method, headers),) = worker.asked
    assert (method, headers["Accept"]) == ("GET", "application/json")
    assert headers["X-Fraudstream-Routed"] == worker.url


async def test_a_routed_request_is_not_routed_again() -> None:
    worker = DictWorker()
    worker.place = OwnedElsewhere("http://127.0.0.1:6067")
    async with client_of(worker) as client:
        reply = await client.get(
            "/cards/c1/", headers=JSON | {"X-Fraudstream-Routed": "http://127.0.0.1:6067"}
        )
        assert reply.status == 503
        assert "reassigned" in (await reply.json())["error"]
        assert int(reply.headers["Retry-After"]) > 0
    assert worker.asked == []


async def test_nobody_holds_the_key() -> None:
    worker = DictWorker()
    worker.place = Unowned("partition 1 is being recovered; try again")
    async with client_of(worker) as client:
        reply = await client.get("/cards/c1.json")
        assert reply.status == 503
        assert (await reply.json())["error"] == "partition 1 is being recovered; try again"


OWN, OTHER = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("active", "ready", "owners", "answer"),
    [
        (True, True, {OWN: [0, 1]}, None),
        (True, False, {OWN: [0, 1]}, "partition 1 is being recovered"),
        (False, True, {OWN: [0], OTHER + "/": [1]}, OTHER),
        (False, True, {OWN: [0], OTHER: [2]}, "no worker owns partition 1"),
        (False, True, {}, "no worker owns partition 1"),
        # two machines that both call themselves 127.0.0.1: asking "the other" would ask ourselves
        (False, True, {OWN + "/": [0, 1]}, "several workers have the address"),
    ],
)
def test_who_answers(active: bool, ready: bool, owners: dict, answer: str | None) -> None:
    found = key_owner(1, OWN, owners, active=active, ready=ready)
    if isinstance(found, Unowned):
        assert answer is not None
        assert found.reason.startswith(answer)
    else:
        assert found == answer


async def test_a_transaction_as_json_and_as_a_page() -> None:
    worker = DictWorker()
    worker.transactions["x1"] = prediction()
    async with client_of(worker) as client:
        assert await (await client.get("/transactions/x1.json")).json() == prediction()
        text = "".join(Tags(await (await client.get("/transactions/x1/")).text()).texts)
    for wanted in (
        "Sent to review",
        "1,234.56 EUR",
        "amount <1234.56> is high",
        '"<Acme>"',
        "late",
    ):
        assert wanted in text


async def test_every_transaction_with_the_id_is_shown() -> None:
    worker = DictWorker()
    conflicting = prediction(amount_minor=900_000, flags=["conflicting"])
    worker.transactions["x1"] = prediction(others=[conflicting, prediction(card_id="c2")])
    async with client_of(worker) as client:
        text = "".join(Tags(await (await client.get("/transactions/x1/")).text()).texts)
    for wanted in (
        "3 transactions have this id",
        "1,234.56 EUR",
        "9,000.00 EUR",
        "conflicting",
        "c2",
    ):
        assert wanted in text


@pytest.mark.parametrize(
    "fields",
    [
        {"terminal_id": None},
        {"reasons": [], "flags": [], "is_fraud": False, "score": 0.0},
        {"anomaly_score": 0.25},
        {"features": {}},
        {"features": {"amount": None}},
        {"extra": {}},
        {"extra": None},
        {"event_time_ms": 253_402_300_799_999},
    ],
)
async def test_transactions_that_lack_something(fields: dict[str, Any]) -> None:
    worker = DictWorker()
    worker.transactions["x1"] = prediction(**fields)
    async with client_of(worker) as client:
        assert (await client.get("/transactions/x1/")).status == 200


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        ({}, []),
        ({"stopping": True, "joined": False}, ["this worker is stopping"]),
        ({"joined": False, "sink": "x"}, ["this worker has not joined the group yet"]),
        ({"kafka_answers": False}, ["Kafka does not answer"]),
        ({"rebalancing": True}, ["partitions are being assigned"]),
        ({"stopped": ["transactions/2 cannot be read"]}, ["transactions/2 cannot be read"]),
        ({"tables": {"cards": False, "terminals": True}}, ["table cards is being recovered"]),
        (
            {"tables": {"cards": False}, "sink": "no node"},
            ["table cards is being recovered", "predictions wait for Cassandra: no node"],
        ),
    ],
)
def test_why_not_ready(state: dict[str, Any], reasons: list[str]) -> None:
    well = {"stopping": False, "joined": True, "rebalancing": False, "kafka_answers": True}
    assert why_not_ready(**{**well, "tables": {"cards": True}, "sink": None, **state}) == reasons


async def test_readiness() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        reply = await client.get("/health/ready")
        told = {"status": "ready", "reasons": [], "waits": ["labels/2 waits for <nothing>"]}
        assert (reply.status, await reply.json()) == (200, told)
        worker.not_ready = ["table cards is being recovered"]
        reply = await client.get("/health/ready")
        assert reply.status == 503
        assert (await reply.json())["reasons"] == ["table cards is being recovered"]
        assert (await client.get("/health/live")).status == 200
        # a load balancer's own name, or a page whose name points here
        reply = await client.get("/health/ready", headers={"Host": "elsewhere.example"})
        assert (reply.status, await reply.json()) == (503, {"status": "not ready"})


async def test_the_index_names_everything() -> None:
    worker = DictWorker()
    worker.not_ready = ["predictions wait for Cassandra: <none> answers"]
    async with client_of(worker) as client:
        overview = await (await client.get("/index.json")).json()
        page = await client.get("/", headers=HTML)
        tags = Tags(await page.text())
    assert overview["stages"]["cards"] == {
        "records": 6,
        "outcomes": {"enriched": 5, "dead": 1},
        "units": {"transactions": {"enriched": 5, "dead": 1}},
        "lag": 7,
    }
    assert overview["partitions"][0]["state_bytes"] == {"cards": 2048}
    cards = overview["partitions"][0]["stages"]["cards"]
    assert (cards["event_time"], cards["held_ms"]) == ("2023-11-14T22:13:20.000Z", T0 + 9_000)
    assert "paused until labels/2 catches up, 7.0 s ahead in event time" in "".join(tags.texts)
    assert "labels/2 waits for <nothing>" in "".join(tags.texts)
    assert overview["parked_labels"]["2"]["transaction_id"] == "who"
    assert overview["workers"]["http://127.0.0.1:6067"] == [2, 3]
    assert overview["model"] == {"version": "default@1", "hash": "abcd"}
    assert {"/metrics", "/health/ready", "/health/live", "http://127.0.0.1:6067/"} <= set(
        tags.links
    )
    assert "predictions wait for Cassandra: <none> answers" in "".join(tags.texts)


async def test_the_index_of_a_worker_that_has_just_started() -> None:
    worker = DictWorker()
    worker.now = type(worker.now)()
    worker.owners = dict  # type: ignore[method-assign]
    async with client_of(worker) as client:
        assert (await client.get("/")).status == 200


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UnavailableError("no Cassandra at x"), 503, "no Cassandra at x"),
        (SchemaError("run `fraudstream migrate`"), 503, "run `fraudstream migrate`"),
        (StateError("a row is damaged"), 500, "a row is damaged"),
        (RuntimeError("boom"), 500, "this page failed; see the worker's log"),
    ],
)
async def test_errors_are_one_line(error: Exception, status: int, line: str) -> None:
    worker = DictWorker()

    async def fail(_: str) -> None:
        raise error

    worker.transaction = fail  # type: ignore[assignment,method-assign]
    async with client_of(worker) as client:
        reply = await client.get("/transactions/x.json")
        assert (reply.status, await reply.json()) == (status, {"error": line})


async def test_what_is_not_there() -> None:
    async with client_of(DictWorker()) as client:
        reply = await client.get("/nope", headers=JSON)
        assert (reply.status, await reply.json()) == (404, {"error": "nothing at /nope"})
        reply = await client.post("/cards/c1/", headers=JSON)
        assert (reply.status, reply.headers["Allow"]) == (405, "GET,HEAD")
        assert (await client.head("/")).status == 200


async def test_nothing_comes_from_elsewhere_and_nothing_runs() -> None:
    worker = DictWorker()
    worker.add("c1", [0])
    worker.transactions["x1"] = prediction()
    async with client_of(worker) as client:
        for path in ("/", "/cards/c1/", "/transactions/x1/", "/nope"):
            page = await client.get(path, headers=HTML)
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Referrer-Policy"] == "same-origin"
            tags = Tags(await page.text())
            assert not [e for e in tags.elements if e.startswith(("style", "iframe"))]
            # the dashboard's own files, and nothing written into a page
            scripts = [e for e in tags.elements if e.startswith("script")]
            assert scripts == (["script defer src"] * 2 if path == "/" else [])
            assert ("script-src" in page.headers["Content-Security-Policy"]) == (path == "/")
            assert not [e for e in tags.elements if " style" in e or " on" in e]
            for link in tags.links:
                if link.startswith("/"):
                    assert (await client.get(raw(link))).status in {200, 404}, link
        style = await client.get("/style.css")
        assert style.content_type == "text/css"
        assert "http" not in await style.text()


async def test_quality_as_json_and_as_a_page() -> None:
    worker = DictWorker()
    async with client_of(worker) as client:
        assert "No labels have arrived yet" in await (await client.get("/quality/")).text()
        group = DecisionGroup(
            transactions=1_234, labelled=9, frauds=4, alerts=5, true_positives=3, false_positives=1
        ).as_dict()
        worker.judged = {
            "labels": 9, "total": group, "by_day": {"2026-01-31": group}, "by_model": {"<m>@1": group},
            "seconds": 0.1, "age_seconds": 7.4, "from_ms": T0, "to_ms": None,
            "curves": {
                "precision_recall": [[0.9, 0.5, 1.0], [0.25, 1.0, 0.75]],
                "calibration": [[0.05, 0.0, 5], [0.95, 1.0, 4]],
            },
        }  # fmt: skip
        page = Tags(await (await client.get("/quality/")).text())
        for text in ("2026-01-31", "<m>@1", "1,234", "0.750"):
            assert text in page.texts
        assert "7 s ago" in "".join(page.texts)
        text = await (await client.get("/quality/")).text()
        assert 'points="50.0,0.0 100.0,25.0"' in text  # without scripts
        assert 'data-rows="[[0.05,0.0,5],[0.95,1.0,4]]"' in text
        assert "/static/quality.js" in text
        reply = await client.get("/quality.json")
        assert (await reply.json())["total"]["unlabelled_alerts"] == 1
        assert "/quality/" in Tags(await (await client.get("/")).text()).links


async def test_a_period_that_is_being_measured_says_so() -> None:
    worker = DictWorker()
    worker.judged = None
    async with client_of(worker) as client:
        text = await (await client.get("/quality/")).text()
        assert "being measured" in text
        assert 'id="measuring"' in text  # quality.js looks for it
        reply = await client.get("/quality.json")
        assert (reply.status, "Retry-After" in reply.headers) == (503, True)
        bad = await client.get("/quality.json?from=2026-01-02&to=2026-01-01")
        assert bad.status == 400


async def test_a_period_is_measured_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.quality_data.WAIT_SECONDS", 0.05)
    goes_on, asked = threading.Event(), []

    def slow(begin: int, end: int | None, progress: Any) -> dict[str, Any]:
        asked.append((begin, end))
        while not goes_on.wait(0.01):
            progress("predictions", 10_000)
        return {"total": 1}

    reader = QualityData(slow, lambda: T0)
    assert await reader.get(None, None) is None  # nobody waits for it
    assert await reader.get(None, None) is None
    goes_on.set()
    while (found := await reader.get(None, None)) is None:
        pass
    month_ago = T0 - 30 * 86_400_000
    assert (found["total"], found["from_ms"], found["to_ms"]) == (1, month_ago, None)
    assert asked == [(month_ago, None)]
    goes_on.clear()
    assert await reader.get(5, 9) is None
    reader.close()  # a thread that reads would keep the worker from ending
    await asyncio.to_thread(reader._thread.shutdown)
    assert asked[1:] == [(5, 9)]


async def test_what_took_long_is_kept_longer() -> None:
    now, worked = 0.0, 0

    def work() -> dict[str, Any]:
        nonlocal now, worked
        now += 30
        worked += 1
        return {}

    with ThreadPoolExecutor(1) as threads:
        kept = CachedAnswer(work, threads, 60, lambda: now, times=5)
        await kept.get()
        now = 30.0 + 149
        await kept.get()
        await threads_done(threads)
        assert worked == 1
        now = 30.0 + 150
        await kept.get()
        await threads_done(threads)
        assert worked == 2


async def threads_done(threads: ThreadPoolExecutor) -> None:
    """What was given to the one thread before is done, and its task has seen it."""
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(threads, int)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_dear_answer_is_worked_out_once_and_kept() -> None:
    now, worked, fault = 0.0, 0, None

    def work() -> dict[str, Any]:
        nonlocal worked
        worked += 1
        if fault:
            raise fault
        return {"number": worked}

    with ThreadPoolExecutor(1) as threads:
        kept = CachedAnswer(work, threads, 60, lambda: now)
        assert await asyncio.gather(kept.get(), kept.get()) == [{"number": 1, "age_seconds": 0}] * 2
        now = 59.0
        assert await kept.get() == {"number": 1, "age_seconds": 59}
        now = 61.0
        assert (await kept.get())["number"] == 1  # the one before, at once
        await threads_done(threads)
        assert (await kept.get())["number"] == worked == 2
        now, fault = 200.0, UnavailableError("away")
        await kept.get()
        await threads_done(threads)
        with pytest.raises(UnavailableError, match="away"):
            await kept.get()
        assert worked == 3, "a failure is kept, too"
