"""Tables built anew equal those of workers that run, from the changelog and from the source; and a flaw is found."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from app.blocks.core.row_precedence import row_offset
from app.ops.rebuild import furthest_stores
from app.settings import Settings
from app.stages.parked_labels import row_key
from app.windows.row_format import head_key
from tests.crash.feed import Feed
from tests.deployment import Deployment, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


def test_tables_of_running_workers_equal_rebuilt_ones(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(
        update={
            "session_timeout": 6_000,
            "max_entries_per_key": 600,
            "block_records": 200,
            "label_wait": 2_000,  # some labels of the feed fit nothing
        }
    )
    deployment = Deployment(settings)
    deployment.prepare()
    feed = Feed(settings, seed=3, events=3_000, say=lambda *_: None)

    def rebuilt(*arguments: str, code: int = 0) -> Any:
        done = deployment.run("rebuild", "--datadir", str(tmp_path), "--json", *arguments)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    refused = deployment.run("rebuild", "--datadir", str(tmp_path))
    assert refused.returncode == 4
    assert "there is no worker state in" in refused.stderr
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a", "b")
        fleet.await_ready()
        feed.rate = 400
        feed.start()
        wait_until(lambda: feed.sent > 800, "some load")
        feed.rate = 50  # enough for as long as the comparison takes
        # while they work: each store as of one moment
        found = rebuilt()
        assert found["rows"] > 100
        assert found["differing"] == 0
        assert feed.is_alive(), "the workers were idle"
        # what a killed worker had stored is what its successor goes on with
        fleet.kill("a")
        fleet.start("a")
        feed.rate = 1e6
        feed.join()
        assert feed.error is None
        deployment.drain()
        changelog, source = rebuilt(), rebuilt("--from-source")
        # not equal: a store that another worker has left may have come as far, and is compared, too
        assert min(changelog["rows"], source["rows"]) > 500
        assert changelog["differing"] == source["differing"] == 0
        assert not changelog["left_out"]
        # which labels were parked depended on what Cassandra knew at the time
        assert {where.split("/")[0] for where in source["left_out"]} == {"labels"}
        assert len(source["offsets"]) == 2 * settings.partitions
        assert len(changelog["offsets"]) == 3 * settings.partitions
        for name in ("a", "b"):
            fleet.terminate(name)
    # one entry of one card is lost on disk: it is found, and named, though a store beside it is as far and right
    store, key = damage(tmp_path)
    found = rebuilt(code=6)
    assert found["differing"] == 1
    (example,) = found["examples"]
    assert example["where"] == f"cards/1 in {store}"
    assert example["key"] == repr(key.decode())
    assert example["field"] == "last_offset"
    # so is a parked label of which the changelog knows nothing
    store = furthest_stores([tmp_path], "labels", 0)[0].path
    database = rocksdict.Rdict(str(store), rocksdict.Options(raw_mode=True))
    database[row_key(7)] = bytes(8)
    database.close()
    found = rebuilt(code=6)
    assert found["differing"] == 2
    assert [each["key"] for each in found["examples"]][1:] == ["label at offset 7"]


def damage(folder: Path) -> tuple[Path, bytes]:
    """Let a card's row be an older one in the store that has come furthest, and leave a copy as it was.

    Returns the store and the card.
    """
    path = furthest_stores([folder], "cards", 1)[0].path
    shutil.copytree(path, folder / "another" / path.name)
    database = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    try:
        key = next(key for key in database.keys() if key.startswith(b"h"))  # noqa: SIM118
        raw = database[key]
        database[key] = (row_offset(raw) - 1).to_bytes(8, "big") + raw[8:]
    finally:
        database.close()
    assert head_key(key[1:]) == key
    return path, bytes(key[1:])
