"""Models in skops' format: the same scores to the bit, equal files, and what is refused."""

import io
import json
import re
from functools import partial
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from app.domain.explanation import Explainer
from app.domain.features import Catalogue
from app.errors import UsageError
from app.ops.model_checks import check_model
from app.settings import load_settings
from models.artifact import load_artifact, read_manifest
from models.artifact_folders import ArtifactFolders, Entry
from models.model_loader import ModelHolder
from models.scoring import AnomalyScorer, build_scorer
from models.shipped_models import FORMER, SHIPPED
from models.skops_file import MAGIC, UntrustedTypeError, _check_trees, pack, unpack
from models.training_candidates import KINDS, candidates_of

NAMES = ("amount", "card_count_1h", "card_count_1d", "card_count_7d")


def drawn(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(2, 1, (rows, len(NAMES)))


def trained(estimator):
    rows = drawn(400)
    with threadpool_limits(1):
        return clone(estimator).fit(rows, (rows[:, 0] > 10).astype(int))


FOREST = RandomForestClassifier(n_estimators=5, max_depth=6, random_state=1)
SMALL = {
    "logistic": {},
    "histgb": {"max_iter": 5},
    "forest": {"n_estimators": 5},
    "blend": {"forest__n_estimators": 5, "histgb__max_iter": 5},
}
ESTIMATORS = {kind: candidates_of(kind, 1, SMALL[kind])[0].estimator for kind in KINDS} | {
    "calibrated": CalibratedClassifierCV(LogisticRegression(), cv=3),
    "isotonic": CalibratedClassifierCV(FOREST, method="isotonic", cv=2),
    "boosting": GradientBoostingClassifier(n_estimators=5, random_state=1),
    "extra": ExtraTreesClassifier(n_estimators=5, max_depth=6, random_state=1),
}


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_scores_are_the_same_to_the_bit_after_saving_and_loading(kind):
    fitted = trained(ESTIMATORS[kind])
    packed = pack({"model": fitted, "anomaly": None})
    assert packed.startswith(MAGIC)
    assert pack(unpack(packed)) == packed
    loaded = unpack(packed)["model"]
    explainer = Explainer(NAMES, (8.0, 1.0, 1.0, 2.0), 2)
    before, after = (build_scorer(one, range(4), explainer) for one in (fitted, loaded))
    assert type(after) is type(before)
    for count in (1, 2, 40):
        rows = drawn(count, seed=2)
        assert after.score(rows).tobytes() == before.score(rows).tobytes()
    rows = rows[:5]
    assert after.contributions(rows).tobytes() == before.contributions(rows).tobytes()


def test_anomaly_scores_are_the_same_to_the_bit():
    fitted = IsolationForest(n_estimators=20, random_state=1).fit(drawn(300))
    loaded = unpack(pack(fitted))
    before, after = (
        AnomalyScorer(one, range(4)).score(drawn(100, seed=2)) for one in (fitted, loaded)
    )
    assert after.tobytes() == before.tobytes()


@pytest.mark.parametrize("former", FORMER, ids=lambda one: one.folder)
def test_the_hash_that_a_shipped_model_had_still_means_it(former, tmp_path):
    """States and predictions of earlier releases name it; the registry may have the pickle."""
    hashes = {
        "default": "03ac983c486bbdcd",
        "default-2": "52318de9c1f32697",
        "engineered": "80352149aeb88819",
    }
    now = read_manifest(SHIPPED / former.folder)
    assert now.trained["converted_from"] == hashes[former.folder]
    entry = ArtifactFolders(tmp_path, SHIPPED).by_hash(hashes[former.folder])
    assert entry.manifest.sha256 == former.sha256
    assert entry.manifest.is_pickle
    assert entry.manifest.features == now.features
    fitted = load_artifact(tmp_path, entry.manifest)  # no pickle is read: there is none
    assert pack(fitted._asdict()) == (SHIPPED / former.folder / now.file).read_bytes()


def test_a_worker_goes_on_with_the_former_hash_of_the_shipped_model(tmp_path):
    catalogue = Catalogue((3_600_000, 86_400_000, 7 * 86_400_000, 30 * 86_400_000), 2, "UTC")
    holder = ModelHolder(ArtifactFolders(SHIPPED, tmp_path), catalogue, 2)
    model = holder.by_hash("03ac983c486bbdcd")
    assert (model.hash, model.version) == ("03ac983c486bbdcd", "default@1")
    rows = np.random.default_rng(1).lognormal(2, 1, (50, len(catalogue.names)))
    assert model.score(rows).tobytes() == holder.named("default@1").score(rows).tobytes()


def test_commands_accept_that_model_whatever_release_wrote_the_pickle(tmp_path):
    """A rollback to it: the registry has the old manifest, and workers load the converted file instead."""
    settings = load_settings({"home": tmp_path, "features": "basic"})
    former = ArtifactFolders(SHIPPED).by_hash("03ac983c486bbdcd").manifest
    old = {"libraries": {"scikit-learn": "0.24.2"}}
    model = check_model(settings, Entry(tmp_path, former.model_copy(update=old)))
    assert (model.hash, model.version) == ("03ac983c486bbdcd", "default@1")
    now = read_manifest(SHIPPED / "default")
    with pytest.raises(UsageError, match=r"install scikit-learn 0\.24\.2 or train again"):
        check_model(settings, Entry(SHIPPED / "default", now.model_copy(update=old)))


class Planted:
    """A type that is nobody's."""


def test_a_type_that_is_not_trusted_is_named():
    with pytest.raises(UntrustedTypeError, match=r"Planted is not among the trusted types"):
        pack({"model": Planted(), "anomaly": None})
    with pytest.raises(UntrustedTypeError, match=r"Planted is not among"):
        unpack(skops.io.dumps(Planted()))
    with pytest.raises(UntrustedTypeError, match=r"posix.system is not among"):
        unpack(
            renamed(
                skops.io.dumps(trained(LogisticRegression())),
                "LogisticRegression",
                "posix",
                "system",
            )
        )


def renamed(packed: bytes, name: str, module: str, other: str) -> bytes:
    """A file whose type is another."""
    changed = io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as source, ZipFile(changed, "w") as target:
        for each in source.namelist():
            content = source.read(each)
            if each == "schema.json":
                schema = json.loads(content)
                assert schema["__class__"] == name
                content = json.dumps(schema | {"__class__": other, "__module__": module}).encode()
            target.writestr(each, content)
    return changed.getvalue()


def altered(packed: bytes, field: str, at: int, value: int) -> bytes:
    """A file in which a field of the nodes of each tree is another."""
    changed = io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as source, ZipFile(changed, "w") as target:
        for each in source.namelist():
            content = source.read(each)
            if each.endswith(".npy"):
                array = np.load(io.BytesIO(content), allow_pickle=False)
                if array.dtype.names and field in array.dtype.names:
                    array[field][at] = value
                    file = io.BytesIO()
                    np.save(file, array)
                    content = file.getvalue()
            target.writestr(each, content)
    assert changed.getvalue() != packed
    return changed.getvalue()


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("forest", "left_child", 10_000_000),
        ("forest", "right_child", 0),  # it would be walked for ever
        ("forest", "left_child", -2),  # only -1 is a leaf for scikit-learn
        ("forest", "left_child", -(10**12)),
        ("forest", "feature", 4),
        ("forest", "feature", -7),
        ("histgb", "left", 10_000_000),
        ("histgb", "right", 0),
        ("histgb", "feature_idx", 4),
    ],
)
def test_trees_that_would_crash_scikit_learn_are_refused(kind, field, value):
    packed = pack(trained(FOREST if kind == "forest" else ESTIMATORS["histgb"]))
    with pytest.raises(UntrustedTypeError, match="a tree in it is damaged"):
        unpack(altered(packed, field, 0, value))


def node(loader: str, module: str, name: str, content, **more) -> dict:
    return {
        "__class__": name,
        "__module__": module,
        "__loader__": loader,
        "content": content,
    } | more


def masked(data: dict) -> dict:
    """An array in a file, masked, with all of it visible: for Python it then holds None."""
    mask = node("JsonNode", "builtins", "bool", "true", is_json=True)
    return node("MaskedArrayNode", "numpy.ma", "MaskedArray", {"data": data, "mask": mask})


def rewritten(packed: bytes, change) -> bytes:
    """A file with another schema."""
    changed = io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as source, ZipFile(changed, "w") as target:
        for each in source.namelist():
            content = source.read(each)
            if each == "schema.json":
                content = json.dumps(change(json.loads(content))).encode()
            target.writestr(each, content)
    return changed.getvalue()


@pytest.mark.parametrize("hidden_in", ["estimators", "nodes"])
def test_no_tree_hides_in_a_masked_array(hidden_in):
    made = trained(GradientBoostingClassifier(n_estimators=5, random_state=1))
    packed = pack(made if hidden_in == "estimators" else trained(ESTIMATORS["histgb"]))

    def hide(schema):
        if isinstance(schema, list):
            return [hide(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        told = {name: hide(each) for name, each in schema.items()}
        for name in {"estimators_", "nodes"} & {*told}:
            if told[name].get("__loader__") == "NdArrayNode":
                told[name] = masked(told[name])
        return told

    with pytest.raises(
        UntrustedTypeError, match="damaged|MaskedArray is not among the trusted types"
    ):
        unpack(rewritten(packed, hide))


@pytest.mark.parametrize(
    "hide",
    [lambda tree: partial(np.add, tree), lambda tree: tree.predict],
    ids=["partial", "method"],
)
def test_no_tree_hides_in_what_can_be_called(hide):
    tree = trained(DecisionTreeClassifier())
    del tree.n_features_in_  # without it, no feature of the tree is in a row
    with pytest.raises(UntrustedTypeError, match="a tree in it is damaged"):
        _check_trees(hide(tree))


@pytest.mark.parametrize("depth", [60, 200])
def test_references_that_double_are_refused_at_once(depth):
    """skops' comparison of types would visit 2**depth objects."""

    def of(number, *inside):
        return node("ListNode", "builtins", "list", [*inside], __id__=number)

    inner = of(1)
    for number in range(2, depth):
        inner = of(number, inner, {"__id__": number - 1})
    with pytest.raises(UntrustedTypeError, match="refer to more than 1,000,000 others"):
        unpack(zipped(**{"schema.json": json.dumps(inner | {"protocol": 2})}))


def test_an_object_that_contains_itself_is_refused():
    own = node("ListNode", "builtins", "list", [{"__id__": 1}], __id__=1, protocol=2)
    with pytest.raises(UntrustedTypeError, match="contains itself"):
        unpack(zipped(**{"schema.json": json.dumps(own)}))


def zipped(*, compression: int = ZIP_DEFLATED, **files: str | bytes) -> bytes:
    packed = io.BytesIO()
    with ZipFile(packed, "w", compression) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return packed.getvalue()


def test_a_file_that_inflates_beyond_its_limits_is_refused(monkeypatch):
    monkeypatch.setattr("models.skops_file._MAX_BYTES", 2_000_000)
    monkeypatch.setattr("models.skops_file._MAX_SCHEMA_BYTES", 1_000)
    small, large = "{}", bytes(1_200_000)
    for files in ({"schema.json": large}, {"schema.json": small, "1.npy": large, "2.npy": large}):
        with pytest.raises(UntrustedTypeError, match="too large without compression"):
            unpack(zipped(**files))
    with pytest.raises(UntrustedTypeError, match="another method than deflate"):
        unpack(zipped(**{"schema.json": small}, compression=ZIP_LZMA))
    with pytest.raises(UntrustedTypeError, match="sparse matrices"):
        unpack(zipped(**{"schema.json": small, "1.npz": zipped(a=large)}))


def test_a_tree_of_a_forest_takes_the_features_of_the_forest():
    wide = np.hstack([drawn(400), drawn(400, seed=3)])
    other = DecisionTreeClassifier(random_state=1).fit(wide, (wide[:, 7] > 10).astype(int))
    forest = trained(FOREST)
    forest.estimators_[3] = other
    with pytest.raises(UntrustedTypeError, match="a tree in it is damaged"):
        pack(forest)


def test_the_shipped_models_are_in_the_package():
    files = sorted(path.name for path in SHIPPED.glob("*/*"))
    assert files == ["manifest.json"] * 3 + ["model.skops"] * 3
    for folder in SHIPPED.glob("*/"):
        assert (folder / read_manifest(folder).file).read_bytes().startswith(MAGIC)
    setup = (SHIPPED.parents[1] / "setup.cfg").read_text()
    assert re.search(r"^models = artifacts/\*/\*$", setup, re.MULTILINE)
