"""Signatures of models: what they cover, and what is refused where they are required."""

import asyncio
import hashlib
import json
import shutil
import stat
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from app.cassandra import fetched_models, model_registry
from app.cli import cli
from app.domain.features import Catalogue
from app.errors import NotAnsweringError, NotFoundError, SettingsError, UnavailableError, UsageError
from app.ops.manage_models import make_key, sign
from app.settings import load_settings
from app.stages.loaded_models import ModelSupply
from app.stages.scoring_models import ModelNeeded
from models.artifact import MANIFEST_FILE, read_manifest
from models.artifact_folders import SHIPPED, ArtifactFolders, Entry
from models.model_loader import ModelHolder
from models.signing import SignatureError, new_key, sign_manifest
from models.trusted_artifacts import Trust

CATALOGUE = Catalogue((3_600_000, 86_400_000, 7 * 86_400_000, 30 * 86_400_000), 2, "UTC")
PRIVATE, PUBLIC = new_key()


def signed(folder, pem=PRIVATE, **changes):
    """A copy of a shipped model with changes, signed after them."""
    shutil.copytree(SHIPPED / "default", folder)
    write(folder, read(folder) | changes)
    if pem is not None:
        path = folder / MANIFEST_FILE
        path.write_text(sign_manifest(path.read_text(), pem))
    return Entry(folder, read_manifest(folder))


def read(folder):
    return json.loads((folder / MANIFEST_FILE).read_text())


def write(folder, manifest):
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def load(folder, *keys):
    trust = Trust(keys=keys or (PUBLIC,))
    return ModelHolder(ArtifactFolders(), CATALOGUE, 2, trust=trust).load(
        Entry(folder, read_manifest(folder))
    )


def refused(folder, *keys):
    with pytest.raises(SignatureError) as error:
        load(folder, *keys)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_model_that_a_known_key_has_signed_is_loaded(tmp_path):
    entry = signed(tmp_path / "m")
    assert entry.manifest.signature.key == PUBLIC
    assert entry.manifest.scoring_hash == read_manifest(SHIPPED / "default").scoring_hash
    assert load(tmp_path / "m", new_key()[1], PUBLIC).version == "default@1"


def test_a_model_without_a_signature_is_refused(tmp_path):
    signed(tmp_path / "m", pem=None)
    assert refused(tmp_path / "m") == (
        "model default@1 is not signed, and FRAUDSTREAM_MODEL_KEYS requires it: "
        "`fraudstream models sign default@1 --key FILE` signs it"
    )
    assert ModelHolder(ArtifactFolders(tmp_path), CATALOGUE, 2).named("default")


def test_a_key_that_is_not_known_is_refused_and_named(tmp_path):
    private, public = new_key()
    signed(tmp_path / "m", private)
    assert f"is signed by key {public}, which is not in FRAUDSTREAM_MODEL_KEYS" in refused(
        tmp_path / "m"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.25},
        {"usual": [1.0] * 17},
        {"trained": {"from": "2025-01-01T00:00:00Z"}},
        {"metrics": {}},
        {"kind": "forest"},
        {"format": 2},
        {"of_a_later_release": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_was_changed_is_refused(tmp_path, change):
    signed(tmp_path / "m", of_a_later_release=1)
    write(tmp_path / "m", read(tmp_path / "m") | change)
    assert "the signature of model default@1 is of another manifest" in refused(tmp_path / "m")


def test_a_model_file_that_was_swapped_is_refused_with_its_hash_or_without(tmp_path):
    signed(tmp_path / "m")
    other = (SHIPPED / "engineered" / "model.skops").read_bytes()
    (tmp_path / "m" / "model.skops").write_bytes(other)
    with pytest.raises(UsageError, match="is not the file that was saved"):
        load(tmp_path / "m")
    write(tmp_path / "m", read(tmp_path / "m") | {"sha256": hashlib.sha256(other).hexdigest()})
    assert "is of another manifest" in refused(tmp_path / "m")


@pytest.mark.parametrize("change", [{"version": 2}, {"name": "other"}])
def test_the_signature_of_another_version_or_name_is_refused(tmp_path, change):
    signature = read(signed(tmp_path / "one").folder)["signature"]
    signed(tmp_path / "two", pem=None, **change)
    write(tmp_path / "two", read(tmp_path / "two") | {"signature": signature})
    assert "is of another manifest" in refused(tmp_path / "two")


@pytest.mark.parametrize("value", ["", "AAAA", "not base64!", "A" * 88])
def test_a_signature_that_is_none_is_refused(tmp_path, value):
    signed(tmp_path / "m")
    write(tmp_path / "m", read(tmp_path / "m") | {"signature": {"key": PUBLIC, "value": value}})
    refused(tmp_path / "m")


def test_how_a_manifest_is_written_does_not_matter(tmp_path):
    signed(tmp_path / "m")
    manifest = read(tmp_path / "m")
    (tmp_path / "m" / MANIFEST_FILE).write_text(
        json.dumps(dict(reversed(manifest.items())), separators=(" , ", " : "))
    )
    assert load(tmp_path / "m")


def test_what_was_read_before_is_what_was_signed(tmp_path):
    """The manifest may be replaced between reading it and checking it."""
    first = signed(tmp_path / "m", threshold=0.9)
    shutil.rmtree(tmp_path / "m")
    signed(tmp_path / "m", threshold=0.1)
    with pytest.raises(SignatureError, match="has just changed"):
        ModelHolder(ArtifactFolders(), CATALOGUE, 2, trust=Trust(keys=(PUBLIC,))).load(first)


def test_the_registrys_signed_model_is_taken_for_a_local_one_that_is_not(tmp_path):
    plain = signed(tmp_path / "here" / "m", pem=None)
    there = signed(tmp_path / "there" / "m")

    def holder(elsewhere, keys=(PUBLIC,)):
        folders = ArtifactFolders(tmp_path / "here")
        return ModelHolder(folders, CATALOGUE, 2, elsewhere, Trust(keys=keys))

    def missing(_):
        raise NotFoundError

    def away(_):
        raise UnavailableError

    model_hash = plain.manifest.scoring_hash
    assert holder(lambda _: there).entry(model_hash) == there
    assert holder(lambda _: there).by_hash(model_hash).version == "default@1"
    assert holder(lambda _: there, ()).entry(model_hash) == there
    for nothing in (missing, away):
        with pytest.raises(SignatureError, match="is not signed"):
            holder(nothing).by_hash(model_hash)


def test_a_registry_that_cannot_be_asked_does_not_lack_the_model(tmp_path):
    """A worker ended with "put it back" while Cassandra was being restarted."""
    refused = UnavailableError("Cassandra refuses user 'ann'")

    def away(_):
        raise refused

    with pytest.raises(UnavailableError) as caught:
        ModelHolder(ArtifactFolders(tmp_path), CATALOGUE, 2, away).by_hash("ab" * 32)
    assert caught.value is refused


def test_a_local_copy_never_stands_in_for_a_registered_model(tmp_path):
    """The hash covers neither the model file's bytes nor the figures."""
    broken = signed(tmp_path / "here" / "m", pem=None, metrics={})
    there = signed(tmp_path / "there" / "m", pem=None)
    (broken.folder / "model.skops").write_bytes(b"PK")
    holder = ModelHolder(ArtifactFolders(tmp_path / "here"), CATALOGUE, 2, lambda _: there)
    assert broken.manifest.scoring_hash == there.manifest.scoring_hash
    assert holder.by_hash(broken.manifest.scoring_hash).manifest == there.manifest


def test_an_intact_local_copy_serves_while_the_registry_does_not_answer(tmp_path):
    here = signed(tmp_path / "m", pem=None)

    def away(_):
        raise NotAnsweringError

    holder = ModelHolder(ArtifactFolders(tmp_path), CATALOGUE, 2, away)
    assert holder.entry(here.manifest.scoring_hash) == here
    (here.folder / "model.skops").write_bytes(b"PK")
    with pytest.raises(NotAnsweringError):
        holder.entry(here.manifest.scoring_hash)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Signs what a registry without Cassandra has in a folder; gives the folder."""
    entry = signed(tmp_path / "registry" / "m", pem=None)
    (tmp_path / "key.pem").write_bytes(PRIVATE)
    monkeypatch.setattr("app.ops.manage_models.connected", lambda _: nullcontext())
    monkeypatch.setattr(
        fetched_models, "entry_of", lambda *_: Entry(entry.folder, read_manifest(entry.folder))
    )
    monkeypatch.setattr(
        model_registry,
        "keep_signed",
        lambda _, __, found, text: (found.folder / MANIFEST_FILE).write_text(text),
    )
    return entry.folder


def test_only_the_model_that_was_approved_is_signed(tmp_path, registry):
    key, settings = tmp_path / "key.pem", load_settings({})
    approved = signed(tmp_path / "trained", pem=None)
    write(registry, read(registry) | {"metrics": {}})  # the hash is the same
    with pytest.raises(UsageError, match="is not the one in .*trained: it is not signed"):
        sign(settings, "default@1", key, approved=approved)
    write(registry, read(registry) | {"metrics": approved.manifest.metrics, "threshold": 0.9})
    with pytest.raises(UsageError, match="is not the one in"):
        sign(settings, "default@1", key, approved=approved)
    assert "signature" not in read(registry)
    write(registry, read(approved.folder))
    assert sign(settings, "default@1", key, approved=approved).manifest.signature.key == PUBLIC
    assert sign(settings, "default@1", key, approved=approved)  # once more: signed already


def test_a_model_of_another_hash_than_expected_is_not_signed(tmp_path, registry):
    key, settings = tmp_path / "key.pem", load_settings({})
    right = read_manifest(registry).scoring_hash
    write(registry, read(registry) | {"threshold": 0.9})
    for wrong in (right, right[:16], "", read_manifest(registry).scoring_hash[:8]):
        with pytest.raises(UsageError, match="it is not signed"):
            sign(settings, "default@1", key, expected=wrong)
    assert "signature" not in read(registry)
    sign(settings, "default@1", key, expected=read_manifest(registry).model_hash)
    assert load(registry)


def test_the_command_says_what_it_has_signed(tmp_path, registry):
    key = str(tmp_path / "key.pem")
    said = CliRunner().invoke(
        cli, ["models", "sign", "default@1", "--key", key], catch_exceptions=False
    )
    manifest = read_manifest(registry)
    assert said.output.splitlines() == [
        f"default@1 ({manifest.model_hash}) is signed",
        f"hash       {manifest.scoring_hash}",
        f"threshold  {manifest.threshold}",
        f"file       sha256 {manifest.sha256}",
    ]
    said = CliRunner().invoke(
        cli, ["models", "sign", "default@1", "--key", key, "--hash", "0" * 16]
    )
    assert "it is not signed" in str(said.exception)


def test_a_model_without_its_file_is_not_registered(tmp_path, monkeypatch):
    entry = signed(tmp_path / "m", pem=None)
    (entry.folder / "model.skops").unlink()
    monkeypatch.setattr(model_registry, "_version", lambda *_: None)
    with pytest.raises(NotFoundError, match="model.skops cannot be read .*restore it or train"):
        model_registry.register(None, load_settings({}), entry, "me")


@pytest.mark.parametrize("challenger", [False, True], ids=["current", "challenger"])
async def test_a_worker_that_meets_an_unsigned_model_waits_and_goes_on_once_it_is_signed(
    tmp_path, monkeypatch, challenger
):
    monkeypatch.setattr("app.stages.loaded_models._RETRY_SECONDS", 0.001)
    folder = signed(tmp_path / "m", pem=None).folder
    holder = ModelHolder(ArtifactFolders(tmp_path), CATALOGUE, 2, trust=Trust(keys=(PUBLIC,)))
    supply = ModelSupply(holder.by_hash)
    model_hash = read_manifest(folder).scoring_hash
    assert (supply.challenger if challenger else supply.get)(model_hash) is None
    while "is being loaded" in supply.waiting[model_hash]:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert "`fraudstream models sign default@1 --key FILE`" in supply.waiting[model_hash]
    assert supply.refusal(model_hash) == supply.waiting[model_hash]
    path = folder / MANIFEST_FILE
    path.write_text(sign_manifest(path.read_text(), PRIVATE))
    await supply.obtain(ModelNeeded(model_hash, challenger=challenger))
    assert supply.get(model_hash).version == "default@1"
    assert not (supply.waiting or supply.refused)


async def test_a_worker_that_meets_a_pickle_waits_and_says_what_to_do(tmp_path):
    folder = signed(tmp_path / "m", pem=None, format=2, sha256="0" * 64).folder
    supply = ModelSupply(ModelHolder(ArtifactFolders(tmp_path), CATALOGUE, 2).by_hash)
    model_hash = read_manifest(folder).scoring_hash
    assert supply.get(model_hash) is None
    while "is being loaded" in supply.waiting[model_hash]:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert "set FRAUDSTREAM_ALLOW_PICKLED_MODELS=true" in supply.waiting[model_hash]
    for task in supply._tasks.values():
        task.cancel()


def test_a_private_key_is_written_once_and_for_its_owner_alone(tmp_path):
    public = make_key(tmp_path / "key.pem")
    assert load_settings({"model_keys": public}).model_keys == (public,)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    signed(tmp_path / "m", (tmp_path / "key.pem").read_bytes())
    assert load(tmp_path / "m", public)
    with pytest.raises(UsageError, match="exists already"):
        make_key(tmp_path / "key.pem")
    with pytest.raises(UsageError, match="cannot write"):
        make_key(tmp_path / "nowhere" / "key.pem")


@pytest.mark.parametrize(
    "pem", [b"", b"nothing", PUBLIC.encode()], ids=["empty", "other", "public"]
)
def test_a_key_file_that_is_none_is_refused(pem):
    with pytest.raises(UsageError, match="unencrypted private key"):
        sign_manifest("{}", pem)


def test_a_setting_of_keys_is_checked():
    assert load_settings({"model_keys": f" {PUBLIC}, {PUBLIC}"}).model_keys == (PUBLIC, PUBLIC)
    for wrong in ("AAAA", "not a key", PUBLIC[:-1]):
        with pytest.raises(SettingsError, match="FRAUDSTREAM_MODEL_KEYS: .* is not a public key"):
            load_settings({"model_keys": wrong})
