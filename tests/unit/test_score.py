"""`POST /score` without servers: every answer, and who is heard."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.blocks.core.partition import Computed
from app.errors import BusyError, UnavailableError
from app.settings import Settings
from app.stages.score_callers import ObservedHandler, ScoreCallers
from app.topics import Topics
from app.web import worker_requests
from app.web.access.signed_values import Signer
from app.web.key_owner import OwnedElsewhere, Unowned
from app.web.pages import PAGES, install
from app.web.post_score import ScoreHandler
from app.web.roles import NOBODY
from app.web.worker_requests import ROUTED_HEADER
from tests.builders import T0, tx
from tests.web_worker import DictWorker

TOPICS = Topics(Settings(_env_file=None))  # type: ignore[call-arg]
HERE = (1, 7)


def prediction(offset: int = 7, **fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": "tx-1", "card_id": "c1", "score": 0.25, "is_fraud": False, "threshold": 0.5,
        "anomaly_score": None, "reasons": [], "flags": [], "model_version": "default@1", "scored_at": T0,
        "action": "approve", "rules": [],
        "source_partition": 1, "source_offset": offset, "features": {}, **fields,
    }  # fmt: skip


def predicted(answers: ScoreCallers, *found: dict[str, Any]) -> None:
    """The sink reads these."""
    records: Any = [SimpleNamespace(key=b"c1", value=orjson.dumps(one)) for one in found]
    answers.predicted(1, records, Computed())


class Log(DictWorker):
    """A worker that appends; what becomes of the record is the test's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(score=True, **settings)
        self.waiting = ScoreCallers(TOPICS, self.settings.score_waiting)
        self.appended: list[tuple[int, bytes, bytes]] = []
        self.then: Callable[[], None] = lambda: None
        self.fault: Exception | None = None
        self.remote = ""

    async def append(
        self, partition: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> tuple[int, int]:
        if self.fault is not None:
            raise self.fault
        self.appended.append((partition, key, value))
        asyncio.get_running_loop().call_soon(self.then)
        return HERE

    def client(self) -> TestClient:
        application = web.Application()
        score = ScoreHandler(self, self.waiting)
        if self.remote:

            @web.middleware
            async def from_elsewhere(request: web.Request, handler: Any) -> Any:
                return await handler(request.clone(remote=self.remote))

            application.middlewares.append(from_elsewhere)
        install(application, self, (*PAGES, score.route))
        return TestClient(TestServer(application))


async def ask(log: Log, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    async with log.client() as client:
        data = tx(at=0) if body is None else body
        data = orjson.dumps(data) if isinstance(data, dict | list) else data
        kind = {"Content-Type": "application/json"}
        async with client.post("/score", data=data, headers=kind | headers) as answer:
            return answer.status, await answer.json()


async def test_the_answer_is_the_prediction_of_the_record_that_was_appended() -> None:
    log = Log()
    # others of the card come first, and one that conflicts has the same id
    log.then = lambda: predicted(
        log.waiting, prediction(3, score=1.0), prediction(7), prediction(9, score=1.0)
    )
    status, said = await ask(log)
    assert (status, said["score"], said["transaction_id"]) == (200, 0.25, "tx-1")
    assert "features" not in said
    ((partition, key, value),) = log.appended
    assert (partition, key, orjson.loads(value)) == (1, b"c1", tx(at=0))


async def test_a_prediction_may_come_before_the_acknowledgement() -> None:
    answers = ScoreCallers(TOPICS, 5)
    with answers.expect(b"c1") as waiting:
        answers.repeated(1, [], Computed(taken=0))  # paused for alignment
        predicted(answers, prediction(3), prediction(7, score=0.75))
        assert not waiting.outcome.done()
        waiting.sent(HERE)
        assert waiting.outcome.result()["score"] == 0.75  # type: ignore[index]


async def test_a_repetition_gets_the_stored_prediction() -> None:
    log = Log()
    duplicate = orjson.dumps({"source_partition": 1, "source_offset": 7})
    computed = Computed({(TOPICS.duplicates.name, 1): [(b"c1", duplicate, [])]})

    def found() -> None:
        log.waiting.repeated(1, [], computed)
        row = prediction(2, score=0.125)
        stored = {**row, "others": [{**row, "card_id": "c2"}]}
        loop = asyncio.get_running_loop()
        loop.call_later(0.15, lambda: log.transactions.update({"tx-1": stored}))

    log.then = found
    status, said = await ask(log)
    assert (status, said["score"], said["repeated"]) == (200, 0.125, True)


async def test_another_cards_transaction_of_that_id_is_no_answer() -> None:
    log = Log(score_timeout="300ms")
    computed = Computed({(TOPICS.duplicates.name, 1): [(b"c1", b'{"source_offset": 7}', [])]})
    log.then = lambda: log.waiting.repeated(1, [], computed)
    log.transactions["tx-1"] = {**prediction(card_id="c2"), "others": []}
    assert (await ask(log))[0] == 504


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "invalid_json"),
        (b"[1]", "not_an_object"),
        (tx(amount="much"), "invalid_amount"),
        (tx(amount=-5), "refund"),
        ({"transaction_id": "x", "amount": 1, "event_time": T0}, "missing_card_id"),
    ],
)
async def test_what_is_no_transaction_is_not_appended(body: Any, reason: str) -> None:
    log = Log()
    status, said = await ask(log, body)
    assert (status, said["reason"]) == (400, reason)
    assert log.appended == []


async def test_the_field_names_of_the_deployment_are_read() -> None:
    log = Log(field_names="card_id=PAN_HASH")
    log.then = lambda: predicted(log.waiting, prediction())
    sent = tx(at=0)
    sent["PAN_HASH"] = sent.pop("card_id")
    assert (await ask(log, sent))[0] == 200
    assert log.appended[0][1] == b"c1"


async def test_a_token_is_required_where_one_is_set() -> None:
    log = Log(score_token="open sesame")
    log.then = lambda: predicted(log.waiting, prediction())
    assert (await ask(log))[0] == 401
    assert (await ask(log, Authorization="Bearer open"))[0] == 401
    assert log.appended == []
    assert (await ask(log, Authorization="Bearer open sesame"))[0] == 200


async def test_a_page_elsewhere_cannot_make_a_browser_ask() -> None:
    log = Log()
    assert (await ask(log, Host="evil.example"))[0] == 421
    assert (await ask(log, Host="10.0.0.1"))[0] == 401
    assert (await ask(log, **{"Content-Type": "text/plain"}))[0] == 415
    assert log.appended == []
    log = Log(score_token="open sesame", web_hosts="fraud.bank.example")
    log.then = lambda: predicted(log.waiting, prediction())
    right = {"Authorization": "Bearer open sesame"}
    assert (await ask(log, Host="evil.example", **right))[0] == 421
    assert (await ask(log, Host="fraud.bank.example", **right))[0] == 200


async def test_guessing_the_token_is_slow_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.web.access.login_attempts._ADDRESS_BURST", 2)
    monkeypatch.setattr("app.web.access.login_attempts._ADDRESS_PER_SECOND", 1e-6)
    log = Log(score_token="open sesame")
    log.then = lambda: predicted(log.waiting, prediction())
    async with log.client() as client:

        async def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            body = orjson.dumps(tx(at=0))
            async with client.post("/score", data=body, headers=headers) as answer:
                assert (answer.status == 429) == ("Retry-After" in answer.headers)
                return answer.status

        assert [await status(f"guess {n}") for n in range(4)] == [401, 401, 429, 429]
        assert await status("open sesame") == 200, "whatever others send from the same address"
    told = [orjson.loads(r.getMessage()) for r in caplog.records if r.name == "fraudstream.audit"]
    assert [(one["audit"], one["status"], one["from"]) for one in told] == [
        ("/score", 401, "127.0.0.1")
    ] * 2
    assert "guess" not in caplog.text


async def test_the_token_is_not_accepted_over_a_connection_that_others_can_read() -> None:
    log = Log(score_token="open sesame")
    log.remote = "10.0.0.9"
    log.then = lambda: predicted(log.waiting, prediction())
    right = {"Authorization": "Bearer open sesame"}
    status, said = await ask(log, **right)
    assert status == 403
    assert "over https only" in said["error"]
    assert (await ask(log, **right, **{"X-Forwarded-Proto": "https"}))[0] == 200
    log = Log(score_token="open sesame", allow_unencrypted_credentials=True)
    log.remote, log.then = "10.0.0.9", lambda: predicted(log.waiting, prediction())
    assert (await ask(log, **right))[0] == 200


async def parts(*some: bytes) -> AsyncIterator[bytes]:
    """A body that does not say how long it is."""
    for one in some:
        yield one


async def never() -> AsyncIterator[bytes]:
    """A body that does not end."""
    yield b"{"
    await asyncio.Event().wait()


async def test_bodies_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(max_message_bytes=524_288)
    for body in (b" " * 524_288, parts(b" " * 524_288), parts(*[b" " * 65_536] * 20)):
        status, said = await ask(log, body)
        assert (status, said["error"]) == (413, "a request has at most 523264 bytes")
    monkeypatch.setattr("app.web.access.request_bodies._SECONDS", 0.05)
    status, said = await ask(log, never())
    assert (status, said["error"]) == (408, "the body did not arrive within 0.05 s")
    assert log.appended == []


async def test_nobody_answers_in_time() -> None:
    log = Log(score_timeout="50ms")
    status, said = await ask(log)
    assert status == 504
    assert "send it again" in said["error"]
    assert len(log.appended) == 1


async def test_too_many_wait() -> None:
    log = Log(score_waiting=1)
    with log.waiting.expect(b"c9"):
        status, said = await ask(log)
    assert (status, log.appended) == (429, [])
    assert "FRAUDSTREAM_SCORE_WAITING" in said["error"]
    log.then = lambda: predicted(log.waiting, prediction())
    assert (await ask(log))[0] == 200  # nobody waits any more


async def test_the_cards_worker_answers() -> None:
    log = Log()
    log.place = OwnedElsewhere("http://other:6066")
    log.answers["http://other:6066/score"] = (200, "application/json", b'{"score": 0.5}')
    assert await ask(log) == (200, {"score": 0.5})
    assert log.asked[0][1] == "POST"
    assert (await ask(log, **{ROUTED_HEADER: "http://third:6066"}))[0] == 503
    log.place = Unowned("partition 1 is being recovered; try again")
    assert (await ask(log))[0] == 503
    assert log.appended == []


async def test_kafka_does_not_accept_it() -> None:
    log = Log()
    log.fault = UnavailableError("Kafka does not accept the transaction: away")
    status, said = await ask(log)
    assert (status, said["error"]) == (503, "Kafka does not accept the transaction: away")


async def test_callers_are_counted() -> None:
    answers = ScoreCallers(TOPICS, 2)
    with answers.expect(b"a"), answers.expect(b"a"), pytest.raises(BusyError):
        answers.expect(b"b").__enter__()
    with answers.expect(b"b"):
        pass


def test_a_handler_is_heard_after_it_has_computed() -> None:
    heard: list[Any] = []

    class Handler:
        counts = 5

        def compute(self, partition: int, records: Any, state: Any, until_ms: float) -> Computed:
            return Computed((partition, until_ms))

    handler = ObservedHandler(Handler(), lambda *said: heard.append(said))
    computed = handler.compute(3, ["r"], None, 9.0)
    assert (computed.outputs, handler.counts) == ((3, 9.0), 5)
    assert heard == [(3, ["r"], computed)]


def test_a_handler_for_many_blocks_is_given_one_by_one_to_who_listens() -> None:
    joining = SimpleNamespace(compute_many=lambda works: [])
    assert not hasattr(ObservedHandler(joining, print), "compute_many")


async def test_the_token_goes_to_no_other_machine() -> None:
    """Whoever joins the group says where it answers."""
    log = Log(score_token="open sesame")
    log.place = OwnedElsewhere("http://other:6066")
    status, said = await ask(log, Authorization="Bearer open sesame")
    assert (status, "FRAUDSTREAM_WEB_SECRET" in said["error"]) == (503, True)
    assert log.asked == []


async def test_workers_vouch_for_each_other() -> None:
    log = Log(score_token="open sesame", web_secret="s" * 40)
    log.then = lambda: predicted(log.waiting, prediction())
    signer = Signer(b"s" * 40, "peers")
    body = orjson.dumps(tx(at=0))

    def signed(signer: Signer, body: bytes) -> dict[str, str]:
        now = time.time()
        return {
            worker_requests.PEER_HEADER: worker_requests.ask(
                signer, NOBODY, log.url, "POST", "/score", body, now
            )
        }

    assert (await ask(log, body, **signed(signer, body)))[0] == 200
    assert (await ask(log, body, **signed(Signer(b"x" * 40, "peers"), body)))[0] == 401
    # whoever is in between changes the amount
    assert (await ask(log, body, **signed(signer, orjson.dumps(tx(at=0, amount=1)))))[0] == 401
    assert len(log.appended) == 1


async def test_a_forwarded_transaction_is_signed() -> None:
    log = Log(score_token="open sesame", web_secret="s" * 40)
    log.place = OwnedElsewhere("http://other:6066")
    await ask(log, Authorization="Bearer open sesame")
    ((_, _, headers),) = log.asked
    signer, now = Signer(b"s" * 40, "peers"), time.time()
    header = headers[worker_requests.PEER_HEADER]
    vouched = worker_requests.asker_of(signer, header, "http://other:6066", "POST", "/score", now)
    assert vouched is not None
    assert vouched.sent(orjson.dumps(tx(at=0)))
    assert "Authorization" not in headers


@pytest.mark.parametrize("name", ["avro", "protobuf", "json-schema"])
async def test_json_is_taken_whatever_format_the_topic_has(name: str) -> None:
    log = Log(input_format=name, schema_registry="http://registry:8081")
    log.then = lambda: predicted(log.waiting, prediction(7))
    status, _ = await ask(log)
    assert status == 200
    ((_, _, value),) = log.appended
    assert orjson.loads(value) == tx(at=0)
