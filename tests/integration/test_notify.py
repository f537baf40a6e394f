"""`fraudstream notify` on a real Kafka: a receiver that is away, SIGKILL, a storm, snoozes."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from standardwebhooks.webhooks import Webhook

from app.cassandra.alert_queries import acknowledge
from app.cassandra.claims_and_verdicts import ReviewStore
from app.cassandra.review_rows import Review
from app.cassandra.session import close_shared_sessions, connected
from app.cli.worker import free_port
from app.domain.alert_policy import CAUSES, AlertPolicy
from app.notify.digests import AT_ONCE
from app.settings import Settings
from app.wire.output_records import alert_record
from tests.builders import T0
from tests.deployment import Deployment, Send, wait_until
from tests.integration.test_web import OPENER
from tests.local_http_server import LocalHttpServer, QuietHandler
from tests.prediction_builder import prediction
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLSw0"  # noqa: S105
POLICY = AlertPolicy(CAUSES, 3_600_000, (5_000, 20_000, 100_000))


class Receiver(LocalHttpServer):
    """Takes webhooks, or answers 503.

    Attributes:
        up: whether it takes them.
        status: of its answers about a transaction, in place of 204.
        taken: (id, payload) of those that it acknowledged, in order.
        refused: how many it did not.
    """

    def __init__(self) -> None:
        self.up = True
        self.status: dict[str, int] = {}
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.refused = 0
        self.unsigned = 0
        receiver = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802 -- a name of http.server
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    Webhook(SECRET).verify(body, dict(self.headers))
                except Exception:
                    receiver.unsigned += 1
                payload = orjson.loads(body)
                status = receiver.status.get(payload.get("data", {}).get("transaction_id"), 204)
                if not receiver.up:
                    status = 503
                if status == 204:
                    receiver.taken.append((self.headers["webhook-id"], payload))
                    receiver.took(payload)
                else:
                    receiver.refused += 1
                self.answer(status)

        super().__init__(Handler)
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def took(self, payload: dict[str, Any]) -> None:
        """Told of each that it acknowledged."""

    @property
    def alerts(self) -> int:
        """How many alerts the messages are about."""
        return sum(body["data"].get("count", 1) for _, body in self.taken)


@contextmanager
def notifying(
    deployment: Deployment, url: str, log: Path, severity: str = "low", words: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `fraudstream notify` that has its partitions; killed at the end."""
    before = log.stat().st_size if log.exists() else 0
    secrets = {
        "FRAUDSTREAM_NOTIFY_ROUTES": f"hook={severity}:{url}", "FRAUDSTREAM_NOTIFY_SECRET": SECRET,
    }  # fmt: skip
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "notify", "--heartbeat", str(log.with_suffix(".beat")), *words],
            env={**environ_of(deployment.settings), **secrets}, stdout=file, stderr=file,
        )  # fmt: skip

    def has_partitions() -> bool:
        return process.poll() is not None or b"has partitions" in log.read_bytes()[before:]

    try:
        wait_until(has_partitions, "partitions")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def alerts_of(deployment: Deployment, numbers: range, **fields: Any) -> list[Send]:
    """Alerts of as many cards."""
    sent = []
    fields = {"scored_by": deployment.settings.deployment, "is_fraud": True, **fields}
    for number in numbers:
        card = fields.get("card", f"card-{number:05}")
        alert = POLICY.alert(prediction(number, source_offset=number, **{**fields, "card": card}))
        assert alert is not None
        key, value, _ = alert_record(alert)
        sent.append(Send(value, key))
    return sent


def notified(deployment: Deployment) -> Counter[bytes]:
    """How often it was written down that an alert was told."""
    return Counter(record.key for record in deployment.records(deployment.topics.notifications))


def test_a_receiver_that_is_away_and_kills_lose_and_repeat_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    deployment, log = Deployment(settings), tmp_path / "notify.log"
    deployment.prepare()
    topic = deployment.topics.alerts
    deployment.send(alerts_of(deployment, range(900, 950)), topic)  # before the route was there
    with Receiver() as receiver:
        with notifying(deployment, receiver.url, log):
            deployment.send(alerts_of(deployment, range(3)), topic)
            wait_until(lambda: len(receiver.taken) == 3, "the first alerts")
            wait_until(log.with_suffix(".beat").exists, "a heartbeat")
            wait_until(lambda: len(notified(deployment)) == 3, "what was told")
            receiver.up = False
            deployment.send(alerts_of(deployment, range(3, 100)), topic)
            wait_until(lambda: receiver.refused > 0, "an attempt")
        for begin in (100, 150):  # killed while the receiver is away
            refused = receiver.refused
            with notifying(deployment, receiver.url, log):
                deployment.send(alerts_of(deployment, range(begin, begin + 50)), topic)
                wait_until(lambda: receiver.refused > refused, "another attempt")  # noqa: B023
        with notifying(deployment, receiver.url, log):
            receiver.up = True
            wait_until(lambda: receiver.alerts >= 200, "every alert")
            deployment.send(
                alerts_of(deployment, range(0, 200, 7)), topic
            )  # told before: repeated by a worker
            deployment.send(alerts_of(deployment, range(200, 201)), topic)
            wait_until(lambda: receiver.alerts >= 201, "the next alert")
            wait_until(lambda: len(notified(deployment)) == 201, "all written down")
        with notifying(deployment, receiver.url, log):  # and once more after the end
            deployment.send(alerts_of(deployment, range(201, 202)), topic)
            wait_until(lambda: receiver.alerts >= 202, "the last alert")
            # a kill before this would repeat it to the next receiver
            wait_until(lambda: len(notified(deployment)) == 202, "that is written down")
    assert receiver.unsigned == 0
    assert receiver.alerts == len(receiver.taken) == 202  # a program gets each of them
    repeated = [
        name for name, count in Counter(name for name, _ in receiver.taken).items() if count > 1
    ]
    assert not repeated
    assert set(notified(deployment).values()) == {1}
    killed_while_it_delivers(deployment, receiver_log=tmp_path / "killed.log")


def killed_while_it_delivers(deployment: Deployment, receiver_log: Path) -> None:
    """What was acknowledged and written down is not sent again, and nothing is lost.

    Between an acknowledgement and its record on `notifications`, a kill repeats a message under the same id. That
    cannot be closed from here: only the receiver knows what it has taken.
    """
    numbers = range(1_000, 1_800)
    kills: list[tuple[int, set[str]]] = []
    with Receiver() as receiver:
        with notifying(deployment, receiver.url, receiver_log):
            deployment.send(alerts_of(deployment, numbers), deployment.topics.alerts)
            wait_until(lambda: len(receiver.taken) >= 100, "some")
        for _ in range(2):
            kills.append((len(receiver.taken), names_of(notified(deployment))))
            with notifying(deployment, receiver.url, receiver_log):
                more = kills[-1][0] + 100
                wait_until(lambda: len(receiver.taken) >= more, "some more")  # noqa: B023
        kills.append((len(receiver.taken), names_of(notified(deployment))))
        with notifying(deployment, receiver.url, receiver_log):
            wait_until(
                lambda: len({name for name, _ in receiver.taken}) == len(numbers), "all of them"
            )
    assert kills[-1][0] < len(numbers), "killed too late"
    for taken, written in kills:
        later = {body["data"]["alert_id"] for _, body in receiver.taken[taken:]}
        assert written.isdisjoint(later)
    counts = Counter(name for name, _ in receiver.taken)  # of a repeated one the id is the same
    assert len(counts) == len(numbers)
    assert sum(counts.values()) - len(counts) <= AT_ONCE * len(kills)


def names_of(found: Counter[bytes]) -> set[str]:
    return {key.partition(b"/")[2].decode() for key in found}


def test_an_alert_that_is_refused_and_a_receiver_that_is_gone(
    settings: Settings, tmp_path: Path
) -> None:
    deployment, log = Deployment(settings), tmp_path / "notify.log"
    deployment.prepare()
    topic, port = deployment.topics.alerts, free_port("127.0.0.1")
    words = ("--metrics-port", str(port))

    def metric(name: str) -> float:
        try:
            with OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
                text = reply.read().decode()
        except OSError:
            return -1.0
        return float(text.partition(f'fraudstream_notify_{name}{{route="hook"}} ')[2].split()[0])

    with Receiver() as receiver:
        receiver.status = {"tx-1": 413}
        with notifying(deployment, receiver.url, log, words=words):
            deployment.send(alerts_of(deployment, range(4)), topic)
            wait_until(lambda: metric("parked") == 1, "one is parked")
            wait_until(lambda: metric("alerts_total") == 3, "the others are delivered")
            assert metric("waiting_seconds") == metric("stopped") == 0
        assert "answers 413, but accepts others; parked the alerts" in log.read_text()
        receiver.status = {"tx-5": 410}
        with notifying(deployment, receiver.url, log, words=words):
            wait_until(lambda: len(receiver.taken) == 4, "it is tried once more")
            deployment.send(alerts_of(deployment, range(4, 5)), topic)
            wait_until(lambda: len(receiver.taken) == 5, "the next one")
            deployment.send(alerts_of(deployment, range(5, 8)), topic)
            wait_until(lambda: metric("stopped") == 1, "the route has stopped")
            assert metric("parked") == 0
        assert "it is gone and wants no further messages" in log.read_text()
        receiver.status = {}
        with notifying(deployment, receiver.url, log):
            wait_until(lambda: len({name for name, _ in receiver.taken}) == 8, "nothing is lost")
    assert len(receiver.taken) <= 8 + 2  # of the batch that the 410 belonged to, perhaps


def test_what_is_told_to_whom(settings: Settings, tmp_path: Path) -> None:
    deployment, log = Deployment(settings), tmp_path / "notify.log"
    deployment.prepare()
    topic = deployment.topics.alerts
    assert deployment.run("alerts", "snooze", "--card", "sleepy", "--for", "1h").returncode == 0
    large = {"score": 1.0, "amount_minor": 30_000}
    with Receiver() as receiver, notifying(deployment, receiver.url, log, "high"):
        sent = [
            *alerts_of(deployment, range(1)),  # low
            *alerts_of(deployment, range(1, 2), card="sleepy", **large),
            *alerts_of(deployment, range(2, 3), scored_by="another deployment", **large),
            Send(b"{", b"x"),
            *alerts_of(deployment, range(3, 4), card="c", **large),
            *alerts_of(deployment, range(4, 5), card="c", **large),  # of the same alert
            *alerts_of(deployment, range(5, 6), card="c", score=1.0, amount_minor=500_000),
        ]
        deployment.send(sent[:-1], topic)
        wait_until(lambda: bool(receiver.taken), "the first")
        deployment.send(sent[-1:], topic)
        wait_until(lambda: len(receiver.taken) > 1, "the worst")
        assert [body["data"]["transaction_id"] for _, body in receiver.taken] == ["tx-3", "tx-5"]
        assert [body["data"]["severity"] for _, body in receiver.taken] == ["high", "critical"]
        told_again_when_open_again(deployment, receiver)


def told_again_when_open_again(deployment: Deployment, receiver: Receiver) -> None:
    """An alert that somebody has seen to, with a transaction that came afterwards."""
    settings, alert_id = deployment.settings, receiver.taken[-1][1]["data"]["alert_id"]
    large, worst = {"amount_minor": 30_000}, {"amount_minor": 500_000}

    def send(*numbers: tuple[int, int, dict[str, int]]) -> None:
        """Transactions of the card: number, when it was received, and how large it is."""
        sent = [
            alerts_of(
                deployment, range(number, number + 1), card="c", score=1.0, received_at=at, **amount
            )
            for number, at, amount in numbers
        ]
        deployment.send([one for (one,) in sent], deployment.topics.alerts)

    acked, decided = T0 + 10_000, T0 + 20_000
    with connected(settings) as session:
        acknowledge(session, settings, alert_id, by="ann", note="", now_ms=acked)
    # before that, after it, and once more while it is open
    send((6, acked - 1, large), (7, acked + 1, large), (8, acked + 2, large))
    wait_until(lambda: len(receiver.taken) >= 3, "the alert that is open again")
    send((9, acked + 3, worst))
    wait_until(lambda: len(receiver.taken) >= 4, "that it is worse")
    store = ReviewStore(settings)
    store.claim(alert_id, "ann", T0 + 30_000, T0)
    seen = tuple(f"tx-{number}" for number in (3, 5, 6, 7, 8, 9))
    store.decide(alert_id, Review("ann", None, "fraud", "ann", decided, seen))
    close_shared_sessions()
    send((9, acked + 3, worst), (10, decided + 1, large))  # one is repeated
    wait_until(lambda: len(receiver.taken) >= 5, "the alert that is open once more")
    again = receiver.taken[2:]
    assert [body["data"]["transaction_id"] for _, body in again] == ["tx-7", "tx-9", "tx-10"]
    assert [body["data"]["handled_at"] for _, body in again] == [acked, acked, decided]
    assert [name for name, _ in again] == [
        f"{alert_id}@{acked}-high", f"{alert_id}@{acked}-critical", f"{alert_id}@{decided}-high",
    ]  # fmt: skip


def test_a_storm_is_ten_messages_a_minute_to_people(settings: Settings, tmp_path: Path) -> None:
    deployment, log = Deployment(settings), tmp_path / "notify.log"
    deployment.prepare()

    def told() -> int:
        """How many alerts the titles are about: "13,344 fraud alerts, ...", or "low fraud alert: ..."."""
        firsts = [body["title"].split()[0].replace(",", "") for _, body in receiver.taken]
        return sum(int(first) if first.isdigit() else 1 for first in firsts)

    with Receiver() as receiver:
        url = receiver.url.replace("http://", "json://")  # apprise: nothing is signed
        with notifying(deployment, url, log):
            deployment.send(alerts_of(deployment, range(50_000)), deployment.topics.alerts)
            wait_until(lambda: told() >= 50_000, "every alert")
    assert told() == 50_000
    assert len(receiver.taken) <= 10
    assert "too many to send one by one" in receiver.taken[-1][1]["message"]


def test_mistakes_are_one_line(settings: Settings) -> None:
    environ = {**environ_of(settings), "FRAUDSTREAM_NOTIFY_ROUTES": "hook=low:https://x"}
    done = subprocess.run(
        [sys.executable, "-m", "app", "notify"], env=environ, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set FRAUDSTREAM_NOTIFY_SECRET" in done.stderr


def test_test_messages(settings: Settings) -> None:
    environ = {**environ_of(settings), "FRAUDSTREAM_NOTIFY_SECRET": SECRET}
    with Receiver() as receiver:
        environ["FRAUDSTREAM_NOTIFY_ROUTES"] = f"a=low:{receiver.url} b=high:http://127.0.0.1:1/"
        done = subprocess.run(
            [sys.executable, "-m", "app", "alerts", "test-notify"], env=environ, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert done.stdout.splitlines() == [
            "a: delivered",
            "b: failed, 127.0.0.1:1 does not answer (ClientConnectorError)",
        ]
        assert "no test message reached b" in done.stderr
        assert receiver.taken[0][1]["type"] == "fraud.test"
