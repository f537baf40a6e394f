"""Artifacts and the registry: what is loaded, and what is refused with which words."""

import json
import os

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from app.domain.features import Catalogue
from app.errors import NotFoundError, UsageError
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from models.artifact import MANIFEST_FILE, load_artifact, read_manifest, save_artifact
from models.artifact_folders import SHIPPED, ArtifactFolders, artifact_folders
from models.model_loader import ModelHolder
from models.shipped_models import FORMER
from models.skops_file import UntrustedTypeError
from models.trusted_artifacts import Trust

CATALOGUE = Catalogue((3_600_000, 86_400_000), 2, "UTC")
MODEL_FILE, PICKLE_FILE = "model.skops", "model.joblib"
FEATURES = ("amount", "is_night", "card_count_1h")


def fitted(seed=1):
    rng = np.random.default_rng(seed)
    rows = rng.lognormal(2, 1, (200, 3))
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows[:, 0] > 10)


def ours(value):
    """Stands for code of this project inside a pipeline."""
    return value


def save(folder, seed=1, **changes):
    described = {
        "name": "shop",
        "version": 1,
        "kind": "logistic",
        "features": FEATURES,
        "feature_schema": CATALOGUE.schema,
        "usual": (20.0, 0.0, 1.0),
        "threshold": 0.5,
        "trained": {"from": "2025-01-01T00:00:00Z", "rows": 200},
        "metrics": {"average_precision": 0.9},
    }
    return save_artifact(folder, fitted(seed), **described | changes)


def change(folder, **changes):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def holder(*folders, pickled=False):
    return ModelHolder(ArtifactFolders(*folders), CATALOGUE, 2, trust=Trust(pickled))


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_was_saved_is_what_is_loaded(tmp_path):
    saved = save(tmp_path / "shop-1")
    assert read_manifest(tmp_path / "shop-1") == saved
    assert len(saved.sha256) == 64
    assert saved.scoring_hash.startswith(saved.model_hash)
    assert len(saved.model_hash) == 16
    assert set(saved.libraries) == {"python", "scikit-learn", "numpy", "scipy", "joblib", "skops"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop-1"]
    rows = np.random.default_rng(2).lognormal(2, 1, (20, 3))
    loaded, anomaly = load_artifact(tmp_path / "shop-1")
    assert anomaly is None
    assert loaded.predict_proba(rows).tobytes() == fitted().predict_proba(rows).tobytes()


@pytest.mark.parametrize(
    "edit",
    [
        {"threshold": 0.25},
        {"usual": [21.0, 0.0, 1.0]},
        {"features": ["card_count_1h", "is_night", "amount"]},
        {"feature_schema": "v1-1h"},
        {"version": 2},
        {"name": "shops"},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_the_hash_covers_what_scoring_takes_from_the_manifest(tmp_path, edit):
    saved = save(tmp_path / "shop-1")
    save(tmp_path / "copy")
    change(tmp_path / "copy", metrics={"average_precision": 0.1}, trained={"rows": 7})
    assert read_manifest(tmp_path / "copy").model_hash == saved.model_hash
    change(tmp_path / "copy", **edit)
    changed = read_manifest(tmp_path / "copy")
    assert changed.sha256 == saved.sha256
    assert changed.model_hash != saved.model_hash
    registry = ArtifactFolders(tmp_path)
    assert registry.by_hash(saved.model_hash).folder == tmp_path / "shop-1"
    assert registry.by_hash(changed.model_hash).folder == tmp_path / "copy"


def save_old(folder, **changes):
    """An artifact as releases before format 2 wrote it: the file is a pickle, and holds the model alone."""
    import hashlib

    import joblib

    manifest = json.loads(save(folder, **changes).model_dump_json())
    (folder / MODEL_FILE).unlink()
    joblib.dump(fitted(), folder / PICKLE_FILE)
    digest = hashlib.sha256((folder / PICKLE_FILE).read_bytes()).hexdigest()
    old = {name: value for name, value in manifest.items() if name not in ("format", "anomaly")}
    (folder / MANIFEST_FILE).write_text(json.dumps(old | {"sha256": digest}))
    return digest


def test_pickles_of_older_releases_are_read_where_that_is_allowed_and_keep_their_hash(tmp_path):
    digest = save_old(tmp_path / "old")
    with pytest.raises(UsageError) as error:
        holder(tmp_path).by_hash(digest[:16])
    assert "model shop@1 is a pickle, and loading a pickle runs code" in one_line(error)
    assert "FRAUDSTREAM_ALLOW_PICKLED_MODELS=true" in one_line(error)
    assert "`fraudstream models convert shop@1`" in one_line(error)
    model = holder(tmp_path, pickled=True).by_hash(digest[:16])
    assert model.hash == digest[:16]
    assert model.anomalies(np.ones((2, len(CATALOGUE.names)))) is None
    loaded = load_artifact(tmp_path / "old", pickled=True).model
    assert loaded.predict_proba(np.ones((1, 3))).shape == (1, 2)


def odd_forest():
    rows = np.random.default_rng(1).lognormal(2, 1, (300, 2))
    return IsolationForest(n_estimators=10, random_state=1).fit(rows)


ODD = {
    "features": ("card_count_1h", "amount"),
    "feature_schema": CATALOGUE.schema,
    "threshold": 0.6,
}


def test_anomaly_scores_come_from_the_same_file_and_from_features_of_their_own(tmp_path):
    saved = save(tmp_path / "shop-1", isolation=odd_forest(), anomaly=ODD)
    model = holder(tmp_path).named("shop")
    assert model.anomaly_threshold == 0.6
    rows = np.random.default_rng(3).lognormal(2, 1, (30, len(CATALOGUE.names)))
    columns = [CATALOGUE.names.index(name) for name in ODD["features"]]
    expected = -odd_forest().score_samples(rows[:, columns])
    np.testing.assert_array_max_ulp(model.anomalies(rows), expected, maxulp=1)
    change(tmp_path / "shop-1", anomaly={**ODD, "threshold": 0.61})
    assert read_manifest(tmp_path / "shop-1").model_hash != saved.model_hash
    change(tmp_path / "shop-1", anomaly={**ODD, "metrics": {"auc": 0.5}})
    assert read_manifest(tmp_path / "shop-1").model_hash == saved.model_hash


def test_features_that_anomaly_scores_lack_are_named(tmp_path):
    odd = {**ODD, "features": ("card_count_1h", "amount_deviation")}
    save(tmp_path / "shop-1", isolation=odd_forest(), anomaly=odd)
    with pytest.raises(UsageError) as error:
        holder(tmp_path).named("shop")
    assert one_line(error).startswith("the anomaly part of model shop version 1 uses features")
    assert "amount_deviation" in one_line(error)


def test_a_manifest_without_the_anomaly_part_of_its_file_is_refused(tmp_path):
    save(tmp_path / "shop-1", isolation=odd_forest(), anomaly=ODD)
    change(tmp_path / "shop-1", anomaly=None)
    with pytest.raises(UsageError) as error:
        load_artifact(tmp_path / "shop-1")
    assert "disagree on whether there are anomaly scores" in one_line(error)


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    save(tmp_path / "shop-1")
    change(tmp_path / "shop-1", format=4)
    with pytest.raises(UsageError, match="format: Input should be less than or equal to 3"):
        read_manifest(tmp_path / "shop-1")


def test_equal_models_are_equal_files(tmp_path):
    assert save(tmp_path / "a").sha256 == save(tmp_path / "b").sha256
    assert save(tmp_path / "c", seed=2).sha256 != save(tmp_path / "d").sha256


def test_nothing_is_written_over(tmp_path):
    save(tmp_path / "shop-1")
    with pytest.raises(UsageError, match="exists already"):
        save(tmp_path / "shop-1")


def test_our_own_code_stays_out_of_models(tmp_path):
    pipeline = make_pipeline(FunctionTransformer(ours), LogisticRegression())
    with pytest.raises(UntrustedTypeError, match="ours is not among the trusted types"):
        save_artifact(tmp_path / "x", pipeline)
    assert not (tmp_path / "x").exists()


def test_what_skops_does_not_take_is_a_pickle_where_that_is_allowed(tmp_path):
    rows = np.random.default_rng(1).lognormal(2, 1, (100, 3))
    pipeline = make_pipeline(FunctionTransformer(ours), LogisticRegression())
    pipeline.fit(rows, rows[:, 0] > 8)
    described = json.loads(save(tmp_path / "plain").model_dump_json())
    for name in ("format", "sha256", "libraries"):
        del described[name]
    saved = save_artifact(tmp_path / "x", pipeline, pickled=True, **described | {"name": "own"})
    assert (saved.format, saved.file) == (2, PICKLE_FILE)
    with pytest.raises(UsageError, match="own@1 is a pickle"):
        load_artifact(tmp_path / "x")
    loaded = load_artifact(tmp_path / "x", pickled=True).model
    assert loaded.predict_proba(rows).tobytes() == pipeline.predict_proba(rows).tobytes()


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(NotFoundError) as error:
        read_manifest(tmp_path)
    assert one_line(error) == f"no model in {tmp_path}: there is no manifest.json"
    save(tmp_path / "shop-1")
    (tmp_path / "shop-1" / MODEL_FILE).unlink()
    with pytest.raises(NotFoundError) as error:
        load_artifact(tmp_path / "shop-1")
    assert "no model.skops" in one_line(error)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"{", "Invalid JSON"),
        (b"{}", "name: Field required"),
        ({"threshold": 1.5}, "threshold: Input should be less than or equal to 1"),
        ({"features": []}, "features: "),
        ({"sha256": "abc"}, "sha256: "),
        ({"name": "../evil"}, "name: "),
        ({"usual": [1.0]}, "usual has 1 values for 3 features"),
    ],
)
def test_a_damaged_manifest_is_named_with_its_fault(tmp_path, damage, words):
    folder = tmp_path / "shop-1"
    save(folder)
    if isinstance(damage, bytes):
        (folder / MANIFEST_FILE).write_bytes(damage)
    else:
        change(folder, **damage)
    with pytest.raises(UsageError) as error:
        read_manifest(folder)
    assert words in one_line(error)
    assert str(folder) in one_line(error)


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_the_hash_is_checked_before_a_byte_is_unpickled(tmp_path):
    import joblib

    folder, mark = tmp_path / "shop-1", tmp_path / "went-off"
    digest = save_old(folder)
    joblib.dump(Bomb(mark), folder / PICKLE_FILE)
    with pytest.raises(UsageError) as error:
        load_artifact(folder, pickled=True)
    assert "is not the file that was saved" in one_line(error)
    assert digest[:16] in one_line(error)
    assert not mark.exists()


@pytest.mark.parametrize("written", [2, 3])
def test_a_pickle_is_not_loaded_whatever_its_manifest_says(tmp_path, written):
    import hashlib

    import joblib

    folder, mark = tmp_path / "shop-1", tmp_path / "went-off"
    save(folder)
    for name in (MODEL_FILE, PICKLE_FILE):
        joblib.dump(Bomb(mark), folder / name)
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    change(folder, sha256=digest, format=written)
    with pytest.raises(UsageError) as error:
        load_artifact(folder)
    assert ("is a pickle" if written == 2 else "cannot be read (BadZipFile") in one_line(error)
    assert not mark.exists()


def test_a_truncated_model_is_refused(tmp_path):
    folder = tmp_path / "shop-1"
    save(folder)
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UsageError, match="is not the file that was saved"):
        load_artifact(folder)


def test_another_minor_release_of_scikit_learn_is_refused_a_patch_is_not(tmp_path):
    folder = tmp_path / "shop-1"
    libraries = save(folder).libraries
    major, minor, *_ = libraries["scikit-learn"].split(".")
    change(folder, libraries=libraries | {"scikit-learn": f"{major}.{minor}.99"})
    load_artifact(folder)
    change(folder, libraries=libraries | {"scikit-learn": "0.24.1"})
    with pytest.raises(UsageError) as error:
        load_artifact(folder)
    assert "install scikit-learn 0.24.1 or train again" in one_line(error)


def test_features_that_the_catalogue_lacks_are_named(tmp_path):
    save(tmp_path / "a", features=("amount", "card_count_2h", "terminal_risk_7d"))
    with pytest.raises(UsageError) as error:
        holder(tmp_path).named("shop")
    assert "does not compute: card_count_2h, terminal_risk_7d" in one_line(error)


def test_features_of_another_meaning_are_refused(tmp_path):
    save(tmp_path / "a", feature_schema="v0-1h-1d")
    with pytest.raises(UsageError) as error:
        holder(tmp_path).named("shop")
    assert "trained on features v0-1h-1d, this deployment computes v1-1h-1d" in one_line(error)


def test_a_model_picks_its_columns_from_the_catalogue(tmp_path):
    save(tmp_path / "a", features=("card_count_1h", "amount", "is_night"))
    model = holder(tmp_path).named("shop")
    rows = np.random.default_rng(3).lognormal(2, 1, (30, len(CATALOGUE.names)))
    columns = [CATALOGUE.names.index(name) for name in ("card_count_1h", "amount", "is_night")]
    expected = fitted().predict_proba(rows[:, columns])[:, 1]
    np.testing.assert_allclose(model.score(rows), expected, rtol=0, atol=1e-12)


def test_the_first_folder_that_has_a_name_wins_and_in_it_the_newest_version(tmp_path):
    packaged, home = tmp_path / "packaged", tmp_path / "home"
    save(packaged / "shop", version=9)
    save(home / "shop-9", version=9, seed=2)
    save(home / "shop-10", version=10, seed=3)
    save(home / "other", name="other", seed=4)
    save(home / "other-2", name="other", version=2, seed=5)
    registry = ArtifactFolders(packaged, home)
    assert registry.find("shop").folder == packaged / "shop"
    assert registry.find("shop@9").folder == packaged / "shop"
    assert registry.find("shop@10").folder == home / "shop-10"
    assert registry.find("other").folder == home / "other-2"
    assert [one.folder for one in registry.newer(registry.find("shop"))] == [home / "shop-10"]
    assert not registry.newer(registry.find("other"))
    assert ArtifactFolders(home, packaged).find("shop").folder == home / "shop-10"
    assert registry.next_version("shop") == 11
    assert registry.next_version("new") == 1
    listed = [(each.manifest.name, each.manifest.version) for each in registry.scan()[0]]
    assert listed == [("other", 1), ("other", 2), ("shop", 9), ("shop", 9), ("shop", 10)]


def test_a_planted_folder_does_not_replace_a_shipped_model(tmp_path):
    for version in (1, 2, 99):
        save(tmp_path / "models" / f"default-{version}", name="default", version=version)
    settings = load_settings({"home": tmp_path})
    folders = artifact_folders(settings)
    assert folders.find(settings.model).folder == SHIPPED / "default-2"
    assert folders.find("default@1").folder == SHIPPED / "default"


def test_a_replay_finds_the_model_of_its_time_by_hash(tmp_path):
    old = save(tmp_path / "shop-1")
    new = save(tmp_path / "shop-2", version=2, seed=2)
    models = holder(tmp_path)
    assert models.named("shop").hash == new.model_hash
    assert models.by_hash(old.model_hash).version == "shop@1"
    assert models.registry.find(old.model_hash).folder == tmp_path / "shop-1"
    with pytest.raises(NotFoundError) as error:
        models.by_hash("0123456789abcdef")
    assert "without it, transactions that it scored cannot be scored again" in one_line(error)
    with pytest.raises(NotFoundError):
        models.by_hash("")


def test_each_model_is_loaded_once(tmp_path):
    manifest = save(tmp_path / "shop-1")
    models = holder(tmp_path)
    first = models.named("shop")
    (tmp_path / "shop-1" / MODEL_FILE).unlink()
    assert models.named("shop") is first
    assert models.by_hash(manifest.model_hash) is first


def test_an_unknown_name_lists_the_known_ones_and_damage_is_told(tmp_path):
    save(tmp_path / "shop-1")
    save(tmp_path / "bad", name="bad")
    (tmp_path / "bad" / MANIFEST_FILE).write_text("{")
    registry = ArtifactFolders(tmp_path, tmp_path / "nowhere")
    entries, damaged = registry.scan()
    assert [each.manifest.name for each in entries] == ["shop"]
    assert len(damaged) == 1
    with pytest.raises(NotFoundError) as error:
        registry.find("sho")
    assert "known models: shop" in one_line(error)
    assert "is damaged" in one_line(error)


def test_a_planted_manifest_of_format_1_does_not_replace_the_registrys(tmp_path):
    """Its hash is that of the file alone, so the threshold beside it may be another."""
    digest = save_old(tmp_path / "there" / "shop")
    save_old(tmp_path / "here" / "shop", threshold=0.0)
    there = ArtifactFolders(tmp_path / "there").by_hash(digest)
    here = ArtifactFolders(tmp_path / "here")
    assert here.by_hash(digest).manifest.threshold == 0.0
    models = ModelHolder(here, CATALOGUE, 2, lambda _: there, Trust(pickled=True))
    assert models.by_hash(digest).threshold == 0.5

    def missing(_):
        raise NotFoundError

    assert (
        ModelHolder(here, CATALOGUE, 2, missing).entry(digest).folder == tmp_path / "here" / "shop"
    )


def test_a_planted_copy_of_what_a_shipped_model_was_does_not_replace_it(tmp_path):
    save_old(tmp_path / "models" / "x", name="default", threshold=0.0)
    former = FORMER[0]
    change(tmp_path / "models" / "x", sha256=former.sha256)
    entry = artifact_folders(load_settings({"home": tmp_path})).by_hash(former.sha256)
    assert entry.folder == SHIPPED / "default"
    assert entry.manifest.threshold > 0


def test_only_folders_of_the_registry_are_loaded(tmp_path):
    save(tmp_path / "ours" / "shop-1")
    save(tmp_path / "elsewhere", name="evil")
    registry = ArtifactFolders(tmp_path / "ours")
    assert registry.find(str(tmp_path / "ours" / "shop-1")).manifest.name == "shop"
    (tmp_path / "ours" / "link").symlink_to(tmp_path / "elsewhere")
    for wanted in (tmp_path / "elsewhere", tmp_path / "ours" / ".." / "elsewhere"):
        with pytest.raises(UsageError) as error:
            registry.find(str(wanted))
        assert "is not a model folder" in one_line(error)
    with pytest.raises(UsageError, match="is not a model folder"):
        registry.find(str(tmp_path / "ours" / "link"))
    entries, damaged = registry.scan()
    assert [each.manifest.name for each in entries] == ["shop"]
    assert damaged == [f"{tmp_path / 'ours' / 'link'} leads out of the model folders"]


def test_the_setting_may_name_a_folder(tmp_path):
    save(tmp_path / "mine")
    settings = load_settings({"model": str(tmp_path / "mine"), "home": tmp_path / "home"})
    assert artifact_folders(settings).find(settings.model).manifest.name == "shop"
    assert artifact_folders(settings).find("default@1").folder == SHIPPED / "default"
    assert artifact_folders(settings).find("default").folder == SHIPPED / "default-2"


def test_the_shipped_model_fits_the_default_settings():
    settings = load_settings()
    model = ModelHolder(artifact_folders(settings), catalogue_of(settings), 2).named(settings.model)
    names = catalogue_of(settings).names
    usual = dict.fromkeys(names, 0.0) | dict(
        zip(model.manifest.features, model.manifest.usual, strict=True)
    )
    risky = {
        "terminal_risk_30d": 1.0, "terminal_last_label": 1.0, "terminal_fraud_share_last_5": 1.0,
        "terminal_fraud_streak": 4.0, "terminal_plain_streak": 4.0, "terminal_plain_streak_max_3": 3.0,
    }  # fmt: skip
    rows = np.array(
        [
            [case[name] for name in names]
            for case in (usual, usual | {"amount": 230.0}, usual | risky)
        ]
    )
    plain, large, terminal = model.score(rows)
    assert plain < model.threshold < min(large, terminal)
    assert model.anomalies(rows) is not None
    assert model.reasons(rows[1:2])[0][0] == "amount 230.00 is high"


def test_the_shipped_model_without_labels_fits_the_basic_set():
    settings = load_settings({"features": "basic", "model": "default@1"})
    catalogue = Catalogue(settings.windows, settings.minor_unit_digits, settings.timezone)
    model = ModelHolder(ArtifactFolders(SHIPPED), catalogue, 2).named("default@1")
    rows = np.tile(np.array(model.manifest.usual), (2, 1))
    rows[1, catalogue.names.index("amount")] = 900.0
    usual, dear = model.score(rows)
    assert usual < model.threshold < dear
    assert model.reasons(rows[1:]) == [["amount 900.00 is high"]]
    assert 0.0 < model.manifest.metrics["average_precision"] < 1.0


def test_the_shipped_model_that_knows_labels_fits_its_feature_set():
    settings = load_settings({"features": "engineered"})
    catalogue = catalogue_of(settings)
    model = ModelHolder(ArtifactFolders(SHIPPED), catalogue, 2).named("engineered")
    rows = np.tile(np.array(model.manifest.usual), (2, 1))
    rows[1, catalogue.names.index("terminal_plain_streak")] = 4.0
    rows[1, catalogue.names.index("terminal_plain_streak_max_3")] = 3.0
    usual, suspicious = model.score(
        rows[:, [model.manifest.features.index(n) for n in catalogue.names]]
    )
    assert usual < suspicious
