"""Rows that Cassandra has lost: verify says so and names the command that writes them again."""

import json

import orjson
import pytest

from app.cassandra.session import connected
from app.settings import Settings
from tests.builders import T0, tx, tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

COUNT, LABELS = 300, 20


def label(number: int) -> Send:
    """A label that names all of its transaction: nothing has to be looked up."""
    place = tx(number, card=f"c{number % 50}", at=number)
    said = {
        name: place[name] for name in ("transaction_id", "card_id", "terminal_id", "event_time")
    }
    said |= {"is_fraud": number % 3 == 0, "labelled_at": T0 + number}
    return Send(orjson.dumps(said), said["transaction_id"].encode())


def test_lost_rows_are_written_again(settings: Settings, tmp_path) -> None:  # type: ignore[no-untyped-def]
    # every transaction raises an alert
    deployment = Deployment(settings.model_copy(update={"threshold": 0.0}))
    settings = deployment.settings
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(
            Send(tx_bytes(n, card=f"c{n % 50}", at=n), b"c%d" % (n % 50)) for n in range(COUNT)
        )
        deployment.send(map(label, range(LABELS)), deployment.topics.labels)
        deployment.drain()
        fleet.terminate("a")
    whole = deployment.verify()
    assert (whole["rows"], whole["alerts"]["rows"]) == (COUNT, COUNT)
    assert whole["labels"]["forwarded"] == LABELS
    saved = tmp_path / "saved"
    assert deployment.run("backup", str(saved)).returncode == 0
    table = f"{settings.keyspace}.predictions"
    for loss, ends_with in (
        (f"TRUNCATE {table}", None),
        (f"TRUNCATE {settings.keyspace}.alerts", None),
        (f"DROP KEYSPACE {settings.keyspace}", "everything"),
        (f"DROP TABLE {table}", "table predictions"),
        (f"ALTER TABLE {table} DROP score", "column predictions.score"),
    ):
        with connected(settings) as session:
            session.execute(loss)
            if ends_with != "everything":
                session.execute(f"TRUNCATE {settings.keyspace}.labels")
        if ends_with == "everything":
            assert deployment.run("migrate").returncode == 0
            restored = deployment.run("restore", str(saved))
            assert restored.returncode == 0, restored.stderr
            listed = deployment.run("models", "list", "--json")
            assert "default" in listed.stdout, "the registry is back"
        elif ends_with is None:
            done = deployment.run("verify")
            assert done.returncode == 6
            assert f"{COUNT} rows that Cassandra had acknowledged are missing there" in done.stdout
            assert "`fraudstream rewrite --from 20" in done.stdout
        else:
            for command in ("verify", "rewrite", "worker"):
                options = ["--web-port", "0"] if command == "worker" else []
                done = deployment.run(command, *options)
                assert done.returncode == 5, done.stderr
                assert done.stderr.count("fraudstream: ") == 1
                assert "fraudstream migrate" in done.stderr
                assert "Traceback" not in done.stderr
            done = deployment.run("migrate")
            assert done.returncode == 0
            assert f"repaired {ends_with}" in done.stderr
        done = deployment.run("rewrite", "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["records"], report["rows"], report["alerts"]) == (COUNT, COUNT, COUNT)
        assert report["labels"] == LABELS
        assert deployment.verify() | {"seconds": 0, "seconds_waited": 0} == whole | {
            "seconds": 0, "seconds_waited": 0,
        }  # fmt: skip
