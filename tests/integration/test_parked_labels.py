"""Labels of unknown transactions: they hold back nobody, outlive their worker, and are applied in the end."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import orjson
import pytest

from app.settings import Settings
from tests.builders import tx
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

DAY_MS = 86_400_000


def ask(fleet: Fleet, name: str, path: str) -> str:
    """A page of a worker."""
    url = f"http://127.0.0.1:{fleet.workers[name].port}{path}"
    with build_opener(ProxyHandler({})).open(url, timeout=60) as reply:
        text: str = reply.read().decode()
    return text


def parked(fleet: Fleet, name: str) -> dict[str, str]:
    """By partition, the transaction that the oldest parked label waits for."""
    told = json.loads(ask(fleet, name, "/index.json"))["parked_labels"]
    return {number: one["transaction_id"] for number, one in told.items() if one["labels"]}


def test_a_label_of_an_unknown_transaction_holds_back_nobody(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    now_ms = int(time.time() * 1000)

    def live(first: int, count: int) -> list[Send]:
        at = now_ms - 60_000
        return [
            Send(
                orjson.dumps(
                    tx(n, card=f"c{n % 7}", terminal=f"t{n % 5}", event_time=at + n, amount=5)
                ),
                b"c%d" % (n % 7),
            )
            for n in range(first, first + count)
        ]

    def label(name: str, **fields: Any) -> Send:
        said = {"transaction_id": name, "is_fraud": "yes", "labelled_at": now_ms - 2 * DAY_MS}
        return Send(orjson.dumps({**said, **fields}), b"the same partition")

    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        place = {"card_id": "c1", "terminal_id": "t1", "event_time": now_ms - 60_000 + 1}
        sent = deployment.send([label("before-we-went-live")], deployment.topics.labels)
        deployment.send(live(0, 300))
        deployment.send([label("tx-1", **place)], deployment.topics.labels)
        deployment.drain()  # the labels too: nothing is paused, nothing waits
        report = deployment.verify()
        assert report["scored"] == 300
        assert (report["labels"]["forwarded"], report["labels"]["waiting"]) == (1, 1)
        number = str(sent[0][0])
        assert parked(fleet, "one") == {number: "before-we-went-live"}
        ready = json.loads(ask(fleet, "one", "/health/ready"))
        assert (ready["status"], len(ready["waits"])) == ("ready", 1)
        assert "before-we-went-live" not in ready["waits"][0]  # probes need no login
        metrics = ask(fleet, "one", "/metrics")
        assert f'fraudstream_parked_labels{{partition="{number}"}} 1.0' in metrics
        assert 'fraudstream_held{partition="0",stage="cards"} 1.0' not in metrics

        fleet.kill("one")
        fleet.start("one")
        fleet.await_ready()
        assert parked(fleet, "one") == {number: "before-we-went-live"}

        deployment.send(live(300, 10))
        late = tx("x", card="c1", terminal="t1", event_time=now_ms - 30_000, amount=5)
        late["transaction_id"] = "before-we-went-live"
        deployment.send([Send(orjson.dumps(late), b"c1")])
        wait_until(lambda: not parked(fleet, "one"), "the label to be applied")
        deployment.drain()
        report = deployment.verify()
        assert (report["scored"], report["late"]) == (311, 0)
        assert (report["labels"]["read"], report["labels"]["forwarded"]) == (2, 2)
        done = deployment.run("transaction", "before-we-went-live", "--json")
        assert json.loads(done.stdout)["label"]["is_fraud"] is True
