"""docs/extending.md on real servers: another window on a running deployment; fields and features of one's own."""

from pathlib import Path

import orjson
import pytest

from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
OWN = """
[fields.merchant_category]
type = "text"
default = "unknown"

[fields.installments]
type = "integer"
default = 1

[features.card_distinct_merchant_categories]
of = "card"
compute = "distinct"
field = "merchant_category"
windows = ["7d"]

[features.terminal_installments_share]
of = "terminal"
compute = "share"
field = "installments"
windows = ["1d"]
"""


def transactions(first: int, count: int, **fields: object) -> list[Send]:
    """Ten cards in turn, a minute between two transactions."""
    return [
        Send(
            tx_bytes(
                number,
                card=f"c{number % 10}",
                terminal=f"t{number % 3}",
                at=number * MINUTE,
                **fields,
            ),
            f"c{number % 10}".encode(),
        )
        for number in range(first, first + count)
    ]


def schemas(deployment: Deployment) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in deployment.records(deployment.topics.predictions):
        schema = orjson.loads(record.value)["feature_schema"]
        found[schema] = found.get(schema, 0) + 1
    return found


def test_a_minute_and_twelve_hours_on_a_running_deployment(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    before = catalogue_of(settings).schema
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        deployment.send(transactions(0, 100))
        fleet.await_ready()
        deployment.drain()
        fleet.terminate("a")
    wider = settings.model_copy(
        update={"windows": (MINUTE, HOUR, 12 * HOUR, DAY, 7 * DAY, 30 * DAY)}
    )
    changed = Deployment(wider)
    with Fleet(environ_of(wider), tmp_path) as fleet:
        fleet.start("a")
        changed.send(transactions(100, 100))
        fleet.await_ready()
        changed.drain()
        report = changed.verify()
        assert report["scored"] == 200
        assert schemas(changed) == {before: 100, catalogue_of(wider).schema: 100}
        assert report["feature_schemas"] == schemas(changed)
        (row,) = [row for row in changed.rows("transaction_id", "features") if row[0] == "tx-100"]
        assert row[1]["card_count_12h"] == 11.0  # ten of them from before the change
        assert not fleet.failures


def test_merchant_category_is_stored_computed_and_verified(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(OWN)
    plain = Deployment(settings)
    plain.prepare()  # a keyspace of before
    settings = settings.model_copy(update={"catalogue_file": file, "max_entries_per_key": 10_000})
    deployment = Deployment(settings)
    refused = deployment.run("worker")
    assert refused.returncode == 5, refused.stderr
    assert "predictions.merchant_category" in refused.stderr
    migrated = deployment.run("migrate", "--json")
    assert migrated.returncode == 0, migrated.stderr
    assert len(orjson.loads(migrated.stdout)["added"]) == 4
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        for category in ("books", "food", None):
            at = 0 if category == "books" else 40 if category == "food" else 80
            deployment.send(transactions(at, 40, merchant_category=category, installments=at + 1))
        deployment.send(transactions(120, 1, merchant_category=7))
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
        assert (report["scored"], report["dead"]) == (120, 1)
        rows = deployment.rows(
            "transaction_id", "merchant_category", "installments", "features", "extra"
        )
        by_id = {row[0]: row[1:] for row in rows}
        category, installments, features, extra = by_id["tx-119"]
        assert (category, installments, extra) == ("unknown", 81, None)
        assert features["card_distinct_merchant_categories_7d"] == 3.0
        assert by_id["tx-0"][0] == "books"
        fleet.kill("a")
        fleet.wipe("a")
        fleet.start("a")
        deployment.send(transactions(121, 20, merchant_category="toys"))
        fleet.await_ready()
        deployment.drain()
        assert deployment.verify()["scored"] == 140
        shown = deployment.run("transaction", "tx-121", "--json")
        assert shown.returncode == 0, shown.stderr
        assert orjson.loads(shown.stdout)["merchant_category"] == "toys"
        rebuilt = deployment.run("rebuild", "--from-source", "--datadir", str(tmp_path), "--json")
        assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
        assert not fleet.failures
