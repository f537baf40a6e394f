"""The local folder of fetched models, which several processes share. Threads take their place here."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from app.cassandra import fetched_models
from app.cassandra.fetched_models import FetchedModels
from app.settings import Settings, load_settings
from models.artifact import MANIFEST_FILE, load_artifact, read_manifest
from models.artifact_folders import SHIPPED

SHIPPED_MODEL = SHIPPED / "engineered"
MANIFEST = read_manifest(SHIPPED_MODEL)
CONTENT = (SHIPPED_MODEL / MANIFEST.file).read_bytes()
VERSIONS = {
    one.scoring_hash: one
    for one in (MANIFEST.model_copy(update={"version": number}) for number in range(2, 32))
}


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FetchedModels:
    """A registry of many versions, whose artifacts are kept in a folder."""

    def read_artifact(_: object, __: Settings, model_hash: str) -> tuple[str, bytes]:
        return VERSIONS[model_hash].model_dump_json(), CONTENT

    monkeypatch.setattr(fetched_models, "read_artifact", read_artifact)
    return FetchedModels(load_settings({}), tmp_path / "fetched", lambda: None)  # type: ignore[arg-type,return-value]


def test_processes_that_fetch_at_the_same_time_do_not_disturb_each_other(
    fetched: FetchedModels, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    wanted = random.choices(list(VERSIONS), k=400)

    def fetch_and_load(model_hash: str) -> str:
        entry = fetched.fetch(model_hash)
        if Random(model_hash).random() < 0.5:  # its signature came: the artifact is written again
            fetched._keep(entry, entry.manifest.model_dump_json(), CONTENT)
        load_artifact(entry.folder, entry.manifest, pickled=False)
        return read_manifest(entry.folder).scoring_hash

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fetch_and_load, wanted)) == wanted
    assert not [*tmp_path.rglob("*.json.*"), *tmp_path.rglob("*.skops.*")]  # no drafts


def test_the_oldest_are_removed_but_only_when_nobody_can_be_reading_them(
    fetched: FetchedModels, tmp_path: Path
) -> None:
    folder, hashes = tmp_path / "fetched", list(VERSIONS)
    for model_hash in hashes[:25]:
        fetched.fetch(model_hash)
    assert len([*folder.iterdir()]) == 25
    for number, model_hash in enumerate(hashes[:10]):
        os.utime(folder / model_hash[:16], (number, number))
    fetched.fetch(hashes[2])  # used again
    fetched.fetch(hashes[25])
    left = {one.name for one in folder.iterdir()}
    assert left == {one[:16] for one in (hashes[2], *hashes[7:26])}


def test_a_damaged_artifact_is_fetched_again(fetched: FetchedModels) -> None:
    (model_hash, *_) = VERSIONS
    entry = fetched.fetch(model_hash)
    (entry.folder / entry.manifest.file).write_bytes(b"something else")
    assert load_artifact(fetched.fetch(model_hash).folder, entry.manifest, pickled=False)
    (entry.folder / MANIFEST_FILE).unlink()
    assert fetched.fetch(model_hash) == entry
    shutil.rmtree(entry.folder)
    assert fetched.fetch(model_hash) == entry
