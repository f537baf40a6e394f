"""Labels on real servers: from the command and from a file to the terminal's state, Cassandra and dead letters."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.stack import environ_of

pytestmark = pytest.mark.integration

COUNT = 60


@pytest.mark.timeout(240)
def test_labels_reach_their_transactions_and_are_learned_from(
    settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"label_wait": 3_000})
    deployment = Deployment(settings)
    deployment.prepare()
    sent = [
        Send(tx_bytes(n, card=f"c{n % 7}", terminal=f"t{n % 5}", at=n * 1_000), b"c%d" % (n % 7))
        for n in range(COUNT)
    ]
    # one id, two cards: a label must say which
    sent += [Send(tx_bytes("twice", card=f"c{n}", at=n), b"c%d" % n) for n in (1, 2)]
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        deployment.send(sent)
        fleet.await_ready()
        deployment.drain()

        def label(*arguments: str) -> None:
            done = deployment.run("label", *arguments)
            assert done.returncode == 0, done.stderr

        label("tx-0", "fraud")
        label("tx-0", "genuine")  # a correction
        label("tx-1", "fraud")
        label("tx-twice", "fraud")  # of which card?
        label("tx-twice", "fraud", "--card", "c2")
        label("tx-none", "fraud")  # never heard of
        lines = [f"tx-{n},{n % 2},t{n % 5},c{n % 7},{T0 + n * 1_000}" for n in range(10, COUNT)] + [
            "tx-astray,1,t0,c0,1700000000000"
        ]
        file = tmp_path / "labels.csv"
        file.write_text("\n".join(["ID,is_fraud,terminal_id,card_id,event_time", *lines]))
        done = deployment.run("produce", "--labels", str(file), "--map", "transaction_id=ID")
        assert done.returncode == 0, done.stderr

        def known(name: str) -> Any:
            done = deployment.run("transaction", name, "--json")
            return done.returncode == 0 and json.loads(done.stdout)["label"]

        def verdict(name: str) -> Any:
            label = known(name)
            return label and label["is_fraud"]

        wait_until(lambda: verdict("tx-59") is True, "the last label of the file")
        wait_until(lambda: verdict("tx-1") is True, "the label of the command")
        assert known("tx-5") is None
        assert verdict("tx-0") is False
        assert verdict("tx-10") is False
        made_of: list[Any] = []
        # the label that fits nothing waits at t0, until something happens there after its time is over
        time.sleep(settings.label_wait / 1000 + 1)
        deployment.send([Send(tx_bytes("last", card="c1", terminal="t0", at=90_000), b"c1")])
        deployment.drain()
        report = deployment.verify()
        for source in ("--from-kafka", "--from-cassandra"):
            out = str(tmp_path / source.strip("-"))
            done = deployment.run("train", source, "--parameter", "C=1", "--out", out, "--json")
            assert done.returncode == 0, done.stderr
            made = json.loads(done.stdout)
            # those of the file, tx-0, tx-1 and one of the two that share an id
            assert made["trained"]["rows"] == len(lines) - 1 + 3, source
            assert made["trained"]["frauds"] == 25 + 2, source
            made_of.append((made["sha256"], made["usual"]))
        assert made_of[0] == made_of[1]
    assert report["labels"] == {
        "read": 6 + len(lines), "forwarded": 4 + len(lines), "dead": 3, "given_up": 1,
        "pending": 0, "missing": 0, "differing": 0,
    }  # fmt: skip
    reasons = sorted(
        dict(record.headers)["reason"]
        for record in deployment.records(deployment.topics.dead_letters)
    )
    assert reasons == [b"ambiguous_transaction", b"unknown_transaction", b"unknown_transaction"]
