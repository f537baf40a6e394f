"""Labels on real servers: from the command and from a file to the terminal's state, Cassandra and dead letters."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from app.cassandra.prediction_rows import epoch_ms
from app.display import iso
from app.lab.simulation.files import write_deliveries
from app.lab.simulation.simulate import SimulationConfig, deliver, simulate
from app.lab.simulation.transactions import SimulatedTransactions
from app.settings import Settings
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

COUNT = 60
DAY_MS = 86_400_000


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

        def refused(code: int, text: str, *arguments: str) -> None:
            done = deployment.run("label", *arguments)
            assert (done.returncode, done.stdout) == (code, ""), done.stderr
            (line,) = done.stderr.splitlines()
            assert text in line

        label("tx-0", "fraud")
        label("tx-1", "tx-0", "fraud", "--by", "ann")
        label("tx-0", "genuine")  # a correction
        refused(2, "c1", "tx-twice", "fraud")  # of which card?
        label("tx-twice", "fraud", "--wait")
        label("tx-twice", "fraud", "--card", "c2")
        refused(4, "tx-none", "tx-1", "tx-none", "genuine")  # never heard of
        label("tx-none", "fraud", "--wait")
        done = deployment.run("audit", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)["records"]
        assert [(one["action"], one["result"]) for one in told] == [("label", "done")] * 6
        (hers,) = (one for one in told if one["by"] == "ann")
        assert hers["on"] == ["card/c0", "card/c1", "transaction/tx-0", "transaction/tx-1"]
        assert hers["details"] == {"verdict": "fraud"}
        lines = [f"tx-{n},{n % 2},t{n % 5},c{n % 7},{T0 + n * 1_000}" for n in range(10, COUNT)] + [
            "tx-astray,1,t0,c0,1700000000000",
            f"tx-2,1,t2,not-its-card,{T0 + 2_000}",  # right but for the card: applied
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
        assert verdict("tx-2") is True
        made_of: list[Any] = []
        # the label that fits nothing waits at t0, until something happens there after its time is over
        time.sleep(settings.label_wait / 1000 + 1)
        letters = deployment.topics.dead_letters
        wait_until(lambda: deployment.count(letters) >= 2, "the unknown label to be given up")
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
            assert made["trained"]["frauds"] == 26 + 2, source
            made_of.append((made["sha256"], made["usual"]))
        assert made_of[0] == made_of[1]
    assert report["labels"] == {
        "read": 7 + len(lines), "forwarded": 5 + len(lines), "waiting": 0, "dead": 3, "expired": 1, "erased": 0,
        "pending": 0, "missing": 0, "differing": 0,
    }  # fmt: skip
    reasons = sorted(
        dict(record.headers)["reason"]
        for record in deployment.records(deployment.topics.dead_letters)
    )
    assert reasons == [b"ambiguous_transaction", b"unknown_transaction", b"unknown_transaction"]


def test_a_file_with_labels_goes_through_the_stream(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(
        update={"features": ("basic", "handbook"), "label_delay": 3 * DAY_MS}
    )
    deployment = Deployment(settings)
    deployment.prepare()
    # some 40 labels a terminal: never more than may wait there for their transactions
    made = simulate(SimulationConfig(cards=100, terminals=100, days=12, count=4_000, end_ms=T0))
    file = tmp_path / "history.csv"
    write_deliveries(file, deliver(made))
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        done = deployment.run("produce", str(file), "--with-labels", "is_fraud", "--ahead", "1000")
        assert done.returncode == 0, done.stderr
        deployment.drain()
        report = deployment.verify()
        told = deployment.run("quality", "--json", "--from", iso(T0 - 6 * DAY_MS))
        assert told.returncode == 0, told.stderr
        check_quality(json.loads(told.stdout), deployment, made, T0 - 6 * DAY_MS)
        check_drift(deployment)
        port = fleet.workers["one"].port
        opener = build_opener(ProxyHandler({}))

        def measured(query: str) -> dict[str, Any] | None:
            try:
                with opener.open(
                    f"http://127.0.0.1:{port}/quality.json{query}", timeout=60
                ) as reply:
                    return json.load(reply)  # type: ignore[no-any-return]
            except HTTPError as error:  # until the figures are there
                with error:
                    assert error.code == 503
                return None

        everything = f"?from={iso(T0 - 400 * DAY_MS)}"
        wait_until(lambda: measured(everything) is not None, "figures of all")
        found = measured(everything)
        assert found is not None
        assert found["total"]["transactions"] == 4_000
        assert sum(count for *_, count in found["curves"]["calibration"]) == 4_000
        # of a part, the page has what the command has
        part = f"?from={iso(T0 - 6 * DAY_MS)}&to={iso(T0 - 3 * DAY_MS)}"
        wait_until(lambda: measured(part) is not None, "figures of three days")
        found = measured(part)
        assert found is not None
        assert 0 < found["labels"] == found["total"]["transactions"] < 4_000
        # without a period, the last 30 days
        wait_until(lambda: (measured("") or {"labels": 1})["labels"] == 0, "figures of today")
    assert (report["scored"], report["labels"]["forwarded"]) == (4_000, 4_000)
    assert report["labels"]["dead"] == report["labels"]["expired"] == 0
    risks = [features["terminal_risk_7d"] for (features,) in deployment.rows("features")]
    assert any(risks), "no transaction was scored with what a label said"


def check_drift(deployment: Deployment) -> None:
    """Everything that is stored is compared with the training data of the model that scored it."""
    told = deployment.run("drift", "--json")
    assert told.returncode in (0, 1), told.stderr
    result = json.loads(told.stdout)
    assert (result["transactions"], result["labels"]["known"]) == (4_000, 4_000)
    assert result["labels"]["labelled_share"]["30d"] == 1.0
    assert result["labels"]["silent_ms"] < 3_600_000
    (model,) = result["models"].values()
    assert model["transactions"] == 4_000
    assert all(column["missing"] == 0 for column in model["columns"])
    assert 0 < model["fraud_share"] < 0.1
    told = deployment.run("drift", "--from", "2001-01-01", "--to", "2001-01-02")
    assert told.returncode == 2
    assert "no predictions are stored for this period" in told.stderr


def check_quality(
    result: dict[str, Any], deployment: Deployment, made: SimulatedTransactions, begin_ms: int
) -> None:
    """The counts are those of a plain join of what was sent with the rows."""
    fraud = dict(zip(made.transaction_id.tolist(), made.is_fraud.tolist(), strict=True))
    rows = [
        (row[0], epoch_ms(row[1]), row[2])
        for row in deployment.rows("transaction_id", "event_time", "is_fraud")
        if epoch_ms(row[1]) >= begin_ms
    ]
    total = result["total"]
    assert total["transactions"] == total["labelled"] == len(rows)
    assert total["true_positives"] == sum(fraud[name] and alert for name, _, alert in rows)
    assert total["false_positives"] == sum(alert and not fraud[name] for name, _, alert in rows)
    assert total["missed"] == sum(fraud[name] and not alert for name, _, alert in rows)
    assert sum(day["missed"] for day in result["by_day"].values()) == total["missed"]
    days = {iso(when)[:10] for _, when, _ in rows}  # type: ignore[index]
    assert result["by_day"].keys() == days
