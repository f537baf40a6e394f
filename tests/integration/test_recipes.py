"""Well-known data sets on real servers: sent by a recipe, scored, stored and verified; sent again, nothing changes."""

import json
from pathlib import Path

import pytest

from app.settings import Settings
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[1] / "samples"
ROWS = 36


def test_files_of_three_data_sets_go_through_the_stream(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()

    def produce(name: str, *options: str) -> dict:
        done = deployment.run(
            "produce", str(SAMPLES / f"{name}.csv"), "--recipe", name, *options, "--json"
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        told = produce("sparkov", "--with-labels")
        assert (told["records"], told["labels"]["records"]) == (ROWS, ROWS)
        told = produce("tabformer", "--with-labels", "--skip-bad")
        # refunds are malformed or stored in their own place, by a setting; they have no labels
        assert told["records"] + told["malformed"] == ROWS
        assert told["labels"]["records"] == ROWS - 2
        told = produce("paysim", "--with-labels")
        assert told["left_out_as_labels"] == [
            "oldbalanceOrg", "newbalanceOrig", "oldbalanceDest", "newbalanceDest", "isFlaggedFraud",
        ]  # fmt: skip
        produce("paysim")  # once more: the same ids
        deployment.drain()
        report = deployment.verify()
    sent = 3 * ROWS - 2
    assert report["scored"] == sent
    assert report["labels"]["forwarded"] == sent
    stored = [extra for (extra,) in deployment.rows("extra")]
    assert len(stored) == sent
    names = {name for extra in stored for name in (json.loads(extra) if extra else {})}
    assert {"category", "MCC", "type"} <= names
    assert not {"is_fraud", "input_is_fraud", "Is Fraud?", "isFraud", "isFlaggedFraud"} & names
    assert not deployment.records(deployment.topics.dead_letters)
