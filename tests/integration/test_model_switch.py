"""A worker is ready once its model is bound: whatever is sent from then on is scored by it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import orjson
import pytest

from app.settings import Settings
from models.holder import SHIPPED
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.stack import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000


def another_model(settings: Settings) -> str:
    """A copy of the shipped model under another name; returns what FRAUDSTREAM_MODEL is set to."""
    folder = settings.home / "models" / "other"
    shutil.copytree(SHIPPED / "default", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": "other", "format": 2}))
    return "other"


def transactions(first: int, count: int) -> list[Send]:
    return [
        Send(tx_bytes(number, card=f"c{number % 40}", at=number * MINUTE), b"c%d" % (number % 40))
        for number in range(first, first + count)
    ]


def scored_by(deployment: Deployment) -> dict[int, str]:
    """Model by number of the transaction."""
    predictions = [orjson.loads(r.value) for r in deployment.records(deployment.topics.predictions)]
    return {
        int(one["transaction_id"].removeprefix("tx-")): one["model_version"].partition("@")[0]
        for one in predictions
    }


def test_what_is_sent_after_ready_is_scored_by_the_new_model(
    settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"session_timeout": 6_000})
    deployment = Deployment(settings)
    deployment.prepare()
    other = another_model(settings)
    turns = [("default", 100), (other, 300), ("default", 50)]  # the last one after an idle turn
    begin = 0
    for turn, (model, count) in enumerate(turns):
        environ = environ_of(settings) | {"FRAUDSTREAM_MODEL": f"{model}@1"}
        with Fleet(environ, tmp_path / str(turn)) as fleet:
            fleet.start("a")
            fleet.await_ready()
            with fleet["a"].ask("/metrics") as answer:
                assert f'version="{model}@1"' in answer.read().decode()
            if turn == 1:  # idle for a whole life of a worker, which had bound its model
                fleet.terminate("a")
                fleet.start("a")
                fleet.await_ready()
            deployment.send(transactions(begin, count))
            deployment.drain()
            assert fleet.restarts == []
            fleet.terminate("a")
        by = scored_by(deployment)
        assert Counter(by[number] for number in range(begin, begin + count)) == {model: count}
        begin += count
    assert deployment.verify()["scored"] == begin
