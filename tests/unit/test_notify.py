"""Telling people of alerts: routes, messages, signatures, storms."""

import asyncio
import base64
import hmac
import os
import random
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiokafka import TopicPartition

from app.cassandra.stored_alert import Handled
from app.domain.alert_policy import CAUSES, AlertPolicy, rank
from app.errors import (
    ClosedError,
    NotAnsweringError,
    NotTakenError,
    RejectedError,
    SettingsError,
    UnavailableError,
)
from app.notify.digests import AT_ONCE, PEOPLE_PER_MINUTE, Pending
from app.notify.message_text import Message, Notice, about_many, about_one
from app.notify.metrics import NotifierMetrics, serving
from app.notify.notification_log import Told
from app.notify.reopened_alerts import HandledCheck
from app.notify.route_reader import RouteReader
from app.notify.run import notify
from app.notify.senders import Webhook, refusal_of, sender_of
from app.notify_routes import parse_routes
from app.settings import Settings, load_settings
from tests.builders import T0
from tests.prediction_builder import prediction

POLICY = AlertPolicy(CAUSES, 3_600_000, (5_000, 20_000, 100_000))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLSw0"


def notice(
    number: int, *, minor: int = 1_000, partition: int = 0, card: str | None = None
) -> Notice:
    alert = POLICY.alert(
        prediction(
            number, card=card or f"card-{number:05}", is_fraud=True, score=1.0, amount_minor=minor,
            source_offset=number, reasons=["large amount"],
        )
    )  # fmt: skip
    assert alert is not None
    return Notice(alert["alert_id"], alert["severity"], partition, number, alert)


def for_people() -> Pending:
    return Pending(PEOPLE_PER_MINUTE)


class Receiver:
    """What a route's receiver gets while time passes, second by second."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending
        self.messages: list[tuple[float, list[Notice]]] = []

    def at(self, now: float) -> None:
        while due := self.pending.due(now):
            for told in due:
                self.messages.append((now, told))
                self.pending.done(told, now)

    @property
    def told(self) -> list[str]:
        return [one.alert_id for _, told in self.messages for one in told]


class TestStorm:
    def test_few_alerts_are_told_one_by_one_at_once(self) -> None:
        receiver = Receiver(for_people())
        for number in range(5):
            receiver.pending.add(notice(number))
            receiver.at(float(number))
        assert [(at, len(told)) for at, told in receiver.messages] == [
            (float(number), 1) for number in range(5)
        ]

    def test_fifty_thousand_in_a_minute_are_at_most_ten_messages(self) -> None:
        receiver = Receiver(for_people())
        sent = [notice(number) for number in range(50_000)]
        for second in range(60):
            for one in sent[second * 834 : (second + 1) * 834]:
                receiver.pending.add(one)
            receiver.at(1_000.0 + second)
        for second in range(60, 120):
            receiver.at(1_000.0 + second)
        assert len(receiver.messages) <= 10
        assert sorted(receiver.told) == sorted(one.alert_id for one in sent)
        largest = about_many(max((told for _, told in receiver.messages), key=len), 2)
        assert "too many to send one by one" in largest.body
        assert "13,344 fraud alerts" in largest.title

    @pytest.mark.parametrize("seed", range(20))
    def test_no_minute_has_more_than_ten_whatever_comes(self, seed: int) -> None:
        rng = random.Random(seed)
        receiver, number = Receiver(for_people()), 0
        for second in range(600):
            for _ in range(rng.choice((0, 0, 1, 3, 50))):
                receiver.pending.add(notice(number))
                number += 1
            receiver.at(float(second))
            wait = receiver.pending.wait_seconds(float(second))
            assert wait is None or 0 < wait <= 15
        for second in range(600, 700):
            receiver.at(float(second))
        assert sorted(receiver.told) == sorted(notice(n).alert_id for n in range(number))
        times = [at for at, _ in receiver.messages]
        assert all(sum(start <= at < start + 60 for at in times) <= 10 for start in times)

    def test_after_a_storm_alerts_are_told_one_by_one_again(self) -> None:
        receiver = Receiver(for_people())
        for number in range(100):
            receiver.pending.add(notice(number))
        for second in range(90):
            receiver.at(float(second))
        receiver.pending.add(notice(1_000))
        receiver.at(90.0)
        assert receiver.messages[-1][0] == 90.0
        assert len(receiver.messages[-1][1]) == 1


class TestPrograms:
    """Webhooks: each alert is a message of its own, unless the deployment limits them."""

    def test_a_storm_is_as_many_messages(self) -> None:
        receiver = Receiver(Pending(None))
        sent = [notice(number) for number in range(1_000)]
        for one in sent:
            receiver.pending.add(one)
        assert len(receiver.pending.due(0.0)) == AT_ONCE
        receiver.at(0.0)
        assert receiver.told == [one.alert_id for one in sent]
        assert {len(told) for _, told in receiver.messages} == {1}

    def test_one_that_is_refused_does_not_keep_the_others_from_being_done(self) -> None:
        pending = Pending(None)
        for number in range(3):
            pending.add(notice(number))
        refused, *others = pending.due(0.0)
        for told in others:
            pending.done(told, 0.0)
        assert pending.due(1.0) == [refused]
        assert pending.first_offsets() == {0: 0}

    @pytest.mark.parametrize("limit", [6, 30])
    def test_no_minute_has_more_than_the_limit(self, limit: int) -> None:
        receiver = Receiver(Pending(limit))
        one = notice(1)
        for second in range(180):
            for number in range(3):  # of another card each
                receiver.pending.add(one._replace(alert_id=f"{second}-{number}"))
            receiver.at(float(second))
        times = [at for at, _ in receiver.messages]
        most = max(sum(start <= at < start + 60 for at in times) for start in times)
        assert limit - 1 <= most <= limit

    @pytest.mark.parametrize("limit", [-1, 1, 5])
    def test_limits_without_room_for_summaries_are_refused(self, limit: int) -> None:
        with pytest.raises(SettingsError, match="FRAUDSTREAM_NOTIFY_WEBHOOK_LIMIT"):
            load_settings({"notify_webhook_limit": limit})


class TestPending:
    def test_an_alert_that_becomes_more_severe_keeps_its_place(self) -> None:
        pending = for_people()
        low, high = notice(1, card="c"), notice(2, card="c", minor=500_000)
        assert low.alert_id == high.alert_id
        for one in (low, high, low):
            pending.add(one)
        ((found,),) = pending.due(0.0)
        assert (found.severity, found.offset) == ("critical", 1)
        assert pending.first_offsets() == {0: 1}

    def test_one_that_becomes_more_severe_while_it_is_sent_is_told_again(self) -> None:
        pending = for_people()
        pending.add(notice(1, card="c"))
        (told,) = pending.due(0.0)
        pending.add(notice(2, card="c", minor=500_000))
        pending.done(told, 0.0)
        assert [one.severity for (one,) in pending.due(0.0)] == ["critical"]

    def test_what_is_not_told_is_not_committed(self) -> None:
        pending = for_people()
        for number, partition in ((5, 0), (3, 1), (7, 0)):
            pending.add(notice(number, partition=partition))
        assert pending.first_offsets() == {0: 5, 1: 3}
        pending.done(*pending.due(0.0), 0.0)
        assert pending.first_offsets() == {0: 7, 1: 3}


class TestMessages:
    def test_one_alert(self) -> None:
        message = about_one(notice(1, minor=123_456, card="4111111111111111"), 2)
        assert message.title == "critical fraud alert: 1,234.56 EUR, card …1111"
        assert "411111111" not in message.title + message.body
        assert message.payload["data"]["card_id"] == "4111111111111111"
        assert message.id == f"{message.payload['data']['alert_id']}-critical"

    def test_messages_link_to_the_pages_where_their_address_is_known(self) -> None:
        one = notice(1)
        assert "http" not in about_one(one, 2).body + about_many([one], 2).body
        link = f"https://fraud.example.com/review/?alert={one.alert_id}"
        message = about_one(one, 2, "https://fraud.example.com")
        assert message.body.splitlines()[-1] == message.payload["data"]["url"] == link
        message = about_many([one], 2, "https://fraud.example.com")
        assert message.body.splitlines()[-1] == "https://fraud.example.com/alerts/"

    @pytest.mark.parametrize(
        "url", ["fraud.example.com", "ftp://x", "https://x/pages", "https://u:p@x", "https://x?a=1"]
    )
    def test_an_address_of_pages_that_cannot_be_linked_to_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="without a path"):
            Settings(_env_file=None, web_url=url)  # type: ignore[call-arg]
        assert Settings(_env_file=None, web_url="https://x:1/").web_url == "https://x:1"  # type: ignore[call-arg]

    def test_many_alerts_are_counted_by_severity_and_the_largest_are_named(self) -> None:
        notices = [notice(number, minor=1_000 * number) for number in range(1, 101)]
        message = about_many(notices, 2)
        assert message.payload["data"]["by_severity"] == {
            "critical": 1,
            "high": 80,
            "medium": 15,
            "low": 4,
        }
        assert message.severity == "critical"
        assert [one["amount_minor"] for one in message.payload["data"]["largest"]][:2] == [
            100_000,
            99_000,
        ]
        assert message.payload["data"]["amount_minor"] == 5_050_000

    def test_the_same_alerts_have_the_same_message_id(self) -> None:
        notices = [notice(number) for number in range(10)]
        assert about_many(notices, 2).id == about_many(notices[::-1], 2).id
        assert about_many(notices[1:], 2).id != about_many(notices, 2).id

    def test_foreign_text_steers_nothing(self) -> None:
        alert = {**notice(1).alert, "transaction_id": "a\x1b[31m\n"}
        message = about_one(notice(1)._replace(alert=alert), 2)
        assert "\x1b" not in message.body


class Consumer:
    """The records of one partition, and what was committed of them."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.committed_at = 0
        self.position = 0

    async def committed(self, _: TopicPartition) -> int:
        return self.committed_at

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.position = offset

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        found, self.position = self.records[self.position :], len(self.records)
        return {TP: found} if found else {}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.committed_at = offsets[TP]


class Remembers(Told):
    """What was told, in a list in place of the topic."""

    def __init__(self, settings: Any, route: str, log: list[Any] | None = None) -> None:
        super().__init__(settings, route, None)
        self._log = [] if log is None else log

    async def load(self, _: Any) -> None:
        self._newer, self._older, self.parked = {}, {}, {}
        for record in self._log:
            self._read(record)

    async def _write(self, records: Any) -> None:
        for partition, key, value in records:
            self._log.append(SimpleNamespace(partition=partition, key=key, value=value))


class NothingSnoozed:
    async def refresh(self) -> None: ...

    def __call__(self, _: Any) -> bool:
        return False


TP = TopicPartition("alerts", 0)


class TestOpenAgain:
    """Alerts that somebody has seen to, while Cassandra answers and while it does not."""

    def reader(self, url: str = "https://x", limit: int = 0) -> RouteReader:
        self.consumer, self.sent = Consumer(), list[Message]()
        self.handled: dict[str, Handled] | None = {}
        settings = load_settings({"notify_webhook_limit": limit})

        class Keeps:
            async def send(_, message: Message) -> None:  # noqa: N805
                self.sent.append(message)

            async def close(_) -> None: ...  # noqa: N805

        async def handled(_: Any) -> dict[str, Handled] | None:
            return self.handled

        return RouteReader(
            parse_routes(f"a=low:{url}")[0], settings, self.consumer, Remembers(settings, "a"),
            Keeps(), NothingSnoozed(), handled, clock=lambda: 0.0,
        )  # fmt: skip

    def alert(self, number: int, received_at: int, card: str = "c") -> str:
        alert = POLICY.alert(
            prediction(
                number, card=card, is_fraud=True, source_offset=number, received_at=received_at,
                scored_by=load_settings().deployment,
            )
        )  # fmt: skip
        assert alert is not None
        record = SimpleNamespace(
            topic="alerts",
            partition=0,
            offset=len(self.consumer.records),
            timestamp=received_at,
            value=orjson.dumps(alert),
        )
        self.consumer.records.append(record)
        found: str = alert["alert_id"]
        return found

    def after(self, at_ms: int) -> Handled:
        return Handled(at_ms, lambda _, received_at: (received_at or 0) <= at_ms)

    async def test_they_wait_while_cassandra_is_away_and_nothing_else_does(self) -> None:
        reader = self.reader()
        await reader.on_partitions_assigned([TP])
        alert_id = self.alert(1, 10)
        await reader.step()
        assert len(self.sent) == 1
        self.handled = None
        self.alert(2, 30)
        self.alert(3, 31, card="another")
        await reader.step()
        assert [one.title for one in self.sent][1:] == [
            self.sent[0].title.replace("card c", "card …ther")
        ]
        assert self.consumer.committed_at == 1  # a process that starts again reads it again
        self.handled = {alert_id: self.after(20)}
        await reader.step()
        assert self.sent[2].id == f"{alert_id}@20-low"
        assert "open again" in self.sent[2].title
        assert self.consumer.committed_at == 3

    @pytest.mark.parametrize(
        ("url", "limit", "messages"), [("https://x", 0, 40), ("https://x", 25, 20), ("slack://x", 25, 5)],
        ids=["program", "limited", "people"],
    )  # fmt: skip
    async def test_who_gets_each_alert_at_once(self, url: str, limit: int, messages: int) -> None:
        reader = self.reader(url, limit)
        await reader.on_partitions_assigned([TP])
        for number in range(40):
            self.alert(number, 10, card=f"card-{number}")
        await reader.step()
        assert len(self.sent) == len({one.id for one in self.sent}) == messages

    async def test_each_time_is_told_once(self) -> None:
        reader = self.reader()
        await reader.on_partitions_assigned([TP])
        alert_id = self.alert(1, 10)
        await reader.step()
        self.alert(2, 11)  # nobody has seen to it yet
        await reader.step()
        self.handled = {alert_id: self.after(20)}
        for number, at in ((1, 10), (3, 30), (4, 31), (3, 30)):
            self.alert(number, at)
            await reader.step()
        self.handled = {alert_id: self.after(40)}
        for number, at in ((4, 31), (5, 50), (6, 51)):
            self.alert(number, at)
            await reader.step()
        assert [one.id.partition("-low")[0].rpartition("@")[2] for one in self.sent[1:]] == [
            "20",
            "40",
        ]

    async def test_a_server_that_is_away_is_not_asked_all_the_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[float] = []

        def away(*_: Any) -> Any:
            asked.append(now)
            raise NotAnsweringError("no node")

        monkeypatch.setattr("app.notify.reopened_alerts.shared_session", away)
        check = HandledCheck(load_settings(), lambda: now)
        for second in range(12):
            now = float(second)
            assert await check(["x"]) is None
        assert asked == [0.0, 5.0, 10.0]

    async def test_those_that_wait_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.notify.route_reader._WAITING", 3)
        reader = self.reader()
        await reader.on_partitions_assigned([TP])
        self.alert(1, 10)
        await reader.step()
        self.handled = None
        for number in range(2, 9):
            self.alert(number, 20)
        await reader.step()
        assert self.consumer.committed_at == 5  # of eight


class Bank:
    """A route, its receiver and the log, with a false clock; a process may be killed and started again.

    Args:
        answer: status of the receiver's answer to a message.
    """

    def __init__(self, answer: Callable[[Message], int], url: str = "https://x") -> None:
        self.answer, self.now = answer, 0.0
        self.taken: list[str] = []
        self.attempts = 0
        self.consumer = Consumer()
        self._log: list[Any] = []
        self._route = parse_routes(f"a=low:{url}")[0]

    async def start(self) -> RouteReader:
        """A process that has just got its partition."""
        settings = load_settings()

        async def sleep(seconds: float) -> None:
            self.now += seconds

        async def handled(_: Any) -> dict[str, Handled]:
            return {}

        reader = RouteReader(
            self._route, settings, self.consumer, Remembers(settings, "a", self._log), self,
            NothingSnoozed(), handled, clock=lambda: self.now, sleep=sleep,
            now_ms=lambda: T0 + int(self.now * 1000),
        )  # fmt: skip
        await reader.on_partitions_assigned([TP])
        return reader

    async def send(self, message: Message) -> None:
        self.attempts += 1
        status = self.answer(message)
        if status != 204:
            raise refusal_of("hook", status)
        self.taken.append(message.id)

    async def close(self) -> None: ...

    def alert(self, number: int) -> str:
        alert = POLICY.alert(
            prediction(
                number, card=f"card-{number:05}", is_fraud=True, source_offset=number,
                scored_by=load_settings().deployment,
            )
        )  # fmt: skip
        assert alert is not None
        self.consumer.records.append(
            SimpleNamespace(
                topic="alerts", partition=0, offset=len(self.consumer.records),
                timestamp=T0 + int(self.now * 1000), value=orjson.dumps(alert),
            )
        )  # fmt: skip
        found: str = alert["alert_id"]
        return found

    @property
    def committed(self) -> int:
        return self.consumer.committed_at


def is_about(message: Message, alert_id: str) -> bool:
    return bool(message.payload["data"].get("alert_id") == alert_id)


class TestRefusals:
    """One message that is refused, receivers that refuse every one, and those that want none any more."""

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_an_alert_that_is_refused_is_parked_and_the_others_go_on(
        self, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        bank = Bank(lambda message: status if is_about(message, poison) else 204)
        poison, *others = [bank.alert(number) for number in range(40)]
        reader = await bank.start()
        await reader.step()
        assert sorted(bank.taken) == sorted(f"{name}-low" for name in others)
        assert bank.committed == 40
        assert (reader.parked, reader.delivery.alerts, reader.waiting_seconds) == (1, 39, 0)
        (line,) = [one for one in caplog.messages if "parked" in one]
        assert f"hook answers {status}" in line
        assert poison in line
        bank.alert(0)  # the worker repeats it
        attempts = bank.attempts
        await reader.step()
        assert bank.attempts == attempts

        # the next process tries it once more, and nothing else
        reader = await bank.start()
        await reader.step()
        assert (bank.attempts, reader.parked) == (attempts + 1, 1)
        bank.answer = lambda _: 204
        reader = await bank.start()
        await reader.step()
        assert bank.taken[39:] == [f"{poison}-low"]
        assert (reader.parked, bank.committed) == (0, 41)
        await (await bank.start()).step()
        assert len(bank.taken) == 40

    async def test_one_that_is_refused_for_no_reason_is_parked_after_a_while(self) -> None:
        bank = Bank(lambda message: 500 if is_about(message, poison) else 204)
        poison = bank.alert(0)
        reader = await bank.start()
        for number in range(1, 200):
            await reader.step()
            assert len(bank.taken) >= number - 2  # the others are delayed by one pause at most
            bank.alert(number)
            if reader.parked:
                break
            bank.now += 10
        assert 600 <= bank.now < 1_000
        assert reader.delivery.stopped is None

    @pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
    async def test_a_receiver_that_refuses_every_message_gets_them_later(self, status: int) -> None:
        """A wrong secret is answered with 400, too."""
        bank = Bank(lambda _: status)
        names = [bank.alert(number) for number in range(40)]
        reader = await bank.start()
        while bank.now < 1_800:
            await reader.step()
        assert (reader.parked, bank.taken, bank.committed) == (0, [], 0)
        assert reader.waiting_seconds >= 1_800
        bank.answer = lambda _: 204
        await reader.step()
        await reader.step()
        assert sorted(bank.taken) == sorted(f"{name}-low" for name in names)
        assert bank.committed == 40

    @pytest.mark.parametrize("status", [401, 403, 410])
    async def test_a_receiver_that_wants_none_any_more_stops_its_route(
        self, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        last = ""
        bank = Bank(lambda message: status if is_about(message, last) else 204)
        bank.alert(0)
        reader = await bank.start()
        await reader.step()
        last = bank.alert(1)
        for number in range(2, 9):
            await reader.step()
            bank.alert(number)
        assert bank.attempts == 2
        assert bank.committed == 1  # the others wait
        assert reader.waiting_seconds > 0
        (line,) = [one for one in caplog.messages if "has stopped" in one]
        assert f"route a has stopped: hook answers {status}: it " in line
        bank.answer = lambda _: 204
        reader = await bank.start()
        await reader.step()
        assert (len(bank.taken), bank.committed) == (9, 9)

    async def test_a_summary_that_is_refused_is_sent_again_as_it_was(self) -> None:
        ids = []

        def answer(message: Message) -> int:
            if message.payload["type"] == "fraud.alerts":
                ids.append(message.id)
                return 503 if len(ids) < 3 else 204
            return 204

        bank = Bank(answer, "slack://x")
        for number in range(20):
            bank.alert(number)
        reader = await bank.start()
        while len(ids) < 3:
            await reader.step()
            bank.now += 1
            bank.alert(100 + len(ids))
        assert len(set(ids)) == 1

    async def test_metrics_by_route(self) -> None:
        bank = Bank(lambda message: 400 if is_about(message, poison) else 204)
        poison, *_ = [bank.alert(number) for number in range(3)]
        reader = await bank.start()
        await reader.step()
        text = NotifierMetrics({"a": reader}).text().decode()
        values = dict(
            re.findall(r'^fraudstream_notify_(\w+)\{route="a"\} (\S+)$', text, re.MULTILINE)
        )
        assert values == {
            "messages_total": "2.0", "alerts_total": "2.0", "parked": "1.0", "waiting_seconds": "0.0",
            "stopped": "0.0",
        }  # fmt: skip


async def test_an_hour_without_a_receiver_and_kills_lose_and_repeat_nothing() -> None:
    """An alert each 20 seconds; the process is killed three times meanwhile, and once while they are delivered."""
    hour = 3_600.0
    bank = Bank(lambda _: 204)
    names = [bank.alert(number) for number in range(5)]
    reader = await bank.start()
    await reader.step()
    assert len(bank.taken) == 5
    bank.answer = lambda _: 204 if bank.now >= hour else 503
    kills = [600.0, 1_900.0, 3_500.0]
    while bank.now < hour:
        if len(names) < 5 + bank.now / 20:
            names.append(bank.alert(len(names)))
        if kills and bank.now >= kills[0]:
            kills.pop(0)
            reader = await bank.start()
        await reader.step()
        bank.now += 1
    assert kills == []
    assert len(bank.taken) == 5
    assert bank.attempts < 5 + AT_ONCE * (hour / 30 + 4 * 6)  # a few per pause of 30 s
    back = bank.now
    rest, bank.answer = len(names) // 2, lambda _: 204 if len(bank.taken) < rest else 503
    await reader.step()
    assert len(bank.taken) == rest
    reader, bank.answer = await bank.start(), lambda _: 204
    while len(bank.taken) < len(names):
        await reader.step()
    assert bank.now - back <= 60
    assert sorted(bank.taken) == sorted(f"{name}-low" for name in names)  # each once
    await reader.step()
    assert bank.committed == len(names)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RejectedError), (413, RejectedError), (422, RejectedError), (401, ClosedError), (403, ClosedError),
        (410, ClosedError), (404, NotTakenError), (500, NotTakenError), (301, NotTakenError),
        (429, NotAnsweringError), (503, NotAnsweringError),
    ],
    ids=str,
)  # fmt: skip
async def test_what_an_answer_means(status: int, kind: type[Exception]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_post("/hook", answer)
    async with TestServer(application) as server:
        sender = Webhook(str(server.make_url("/hook")), SECRET)
        with pytest.raises(kind, match=f"answers {status}") as caught:
            await sender.send(about_one(notice(1), 2))
        assert type(caught.value) is kind
        await sender.close()


async def test_a_port_that_is_taken_is_one_line() -> None:
    async with TestServer(web.Application()) as server:
        with pytest.raises(UnavailableError, match="choose another --metrics-port"):
            async with serving(NotifierMetrics({}), "127.0.0.1", server.port or 0):
                pass


async def test_without_routes_it_says_so_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beat = tmp_path / "beat"
    waiting = asyncio.create_task(notify(load_settings(), beat))
    async with asyncio.timeout(60):
        while not beat.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        assert not waiting.done()
        (line,) = caplog.messages
        assert "nobody is notified of alerts: FRAUDSTREAM_NOTIFY_ROUTES is empty" in line
        os.kill(os.getpid(), signal.SIGTERM)
        await waiting


class TestRoutes:
    def test_several(self) -> None:
        routes = parse_routes(
            "ops=high:slack://T/B/C  siem=low:https://u:p@h/x?a=b\nmail=critical:mailto://x"
        )
        assert [(route.name, route.severity, route.is_webhook) for route in routes] == [
            ("ops", "high", False), ("siem", "low", True), ("mail", "critical", False),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("ops:high:slack://secret", "route 1 is not NAME=SEVERITY:URL"),
            ("a=low:https://x b=urgent:https://secret", "route 2 is not NAME=SEVERITY:URL"),
            ("a=low:https://secret a=high:https://secret", "two routes have the name a"),
        ],
    )
    def test_refusals_tell_no_secret(self, text: str, says: str) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({"notify_routes": text})
        assert says in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_webhooks_need_a_secret(self) -> None:
        settings = load_settings({"notify_routes": "a=low:https://x"})
        with pytest.raises(SettingsError, match="set FRAUDSTREAM_NOTIFY_SECRET"):
            sender_of(settings.routes[0], settings)

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_abc", "hunter2", "whsec_AAAA"])
    def test_weak_secrets_are_refused(self, secret: str) -> None:
        with pytest.raises(SettingsError, match="base64 of at least 24 random bytes") as caught:
            load_settings({"notify_secret": secret})
        assert "hunter2" not in str(caught.value)

    def test_a_service_that_apprise_does_not_know(self) -> None:
        settings = load_settings({"notify_routes": "a=low:nonsense://token"})
        with pytest.raises(
            SettingsError, match="the URL of route a is none that apprise knows"
        ) as caught:
            sender_of(settings.routes[0], settings)
        assert "token" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", "pagerduty://integration@routing/",
            "mailtos://user:password@mail.example.org?to=fraud@example.org",
            "workflows://host.example.org/workflow/signature/",
        ],
    )  # fmt: skip
    def test_services_that_people_use(self, url: str) -> None:
        settings = load_settings({"notify_routes": f"a=low:{url}"})
        sender_of(settings.routes[0], settings)


def test_signatures_are_those_of_the_convention() -> None:
    from standardwebhooks.webhooks import Webhook

    at = datetime(2021, 2, 25, 16, 2, 10, tzinfo=UTC)
    signed = Webhook(SECRET).sign("msg_1", at, '{"test":1}')
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, b'msg_1.1614268930.{"test":1}', "sha256").digest()
    assert signed == f"v1,{base64.b64encode(digest).decode()}"


def test_severities_rise() -> None:
    ranks: list[Any] = [
        rank(notice(1, minor=minor).severity) for minor in (0, 5_000, 20_000, 100_000)
    ]
    assert ranks == [0, 1, 2, 3]
    assert orjson.loads(orjson.dumps(about_one(notice(1), 2).payload))
    assert isinstance(about_one(notice(1), 2), Message)
