"""Calls of `fraudstream retrain`: what they learn from, what they sign, and when they stop.

Training, signing and checking are real; the log and the registry are lists here.
"""

import asyncio
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cassandra import fetched_models, model_registry
from app.cassandra.model_registry import RegisteredModel
from app.domain.changes import AnyChange, ChallengerChange, ModelChange
from app.domain.changes_in_force import EarlierModel, InForce
from app.domain.features import Catalogue
from app.errors import BusyError, NotFoundError, UnavailableError, UsageError
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.ops import manage_models, retrain, revertible_promotion, train_from_cassandra
from app.ops.train import TrainingOptions, train
from app.settings import Settings, load_settings
from app.stages.deployed_features import catalogue_of
from models.artifact import MANIFEST_FILE, read_manifest
from models.artifact_folders import ArtifactFolders, Entry
from models.manifest import Manifest
from models.model_loader import ModelHolder
from models.signing import SignatureError, new_key
from models.splits import Periods
from models.training_examples import Examples
from models.trusted_artifacts import trust_of

START, DAY_MS = 1_735_689_600_000, 86_400_000
DAYS, DELAY_MS = 60, 7 * DAY_MS
NOW = START + DAYS * DAY_MS
PRIVATE, PUBLIC = new_key()


def stored(settings: Settings) -> Examples:
    """Forty transactions a day; every tenth is a fraud, and its first feature is larger."""
    count = DAYS * 40
    rng = np.random.default_rng(1)
    fraud = np.arange(count) % 10 == 3
    features = rng.gamma(1.0, 10.0, (count, len(catalogue_of(settings).names)))
    features[fraud, 0] += 30
    times = START + np.arange(count) * (DAY_MS // 40)
    return Examples(features, fraud, times, np.array([f"c{n % 50}" for n in range(count)]))


def frauds_first(examples: Examples) -> Examples:
    """Frauds are reported at once, and genuine transactions are confirmed when the label delay is over."""
    rows = examples.is_fraud | (examples.event_time_ms <= NOW - DELAY_MS)
    columns = (examples.features, examples.is_fraud, examples.event_time_ms, examples.card_id)
    return Examples(*(column[rows] for column in columns))


class Rig:
    """A registry in folders, a log in a list, and a deployment whose current model was trained with periods."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, *, signed: bool = False) -> None:
        keys = {"model_keys": PUBLIC} if signed else {}
        self.settings = load_settings({"home": home, "features": "basic", **keys})
        self.key = home / "private.pem"
        self.key.write_bytes(PRIVATE)
        self.examples = stored(self.settings)
        self.changes: list[AnyChange] = []
        self.away = False
        self._registry = home / "registry"
        for where in (retrain, fetched_models):
            patch.setattr(where, "entry_of", self._entry_of)
        for where in (retrain, model_registry):
            patch.setattr(where, "list_registered", self._list)
        patch.setattr(revertible_promotion, "holder_of", self._holder_of)
        patch.setattr(model_registry, "register", self._register)
        patch.setattr(model_registry, "keep_signed", self._keep_signed)
        patch.setattr(manage_models, "connected", lambda _settings: nullcontext())
        patch.setattr(retrain, "send_changes", self._send)
        patch.setattr(train_from_cassandra, "from_cassandra", lambda *_: self.examples)
        test_from = NOW - DELAY_MS - 5 * DAY_MS  # judged by five days
        periods = Periods(START, test_from - DELAY_MS, test_from, test_from + 5 * DAY_MS, DELAY_MS)
        options = TrainingOptions(
            home / "models" / "fraud-1", periods=periods, fixed={"C": 1.0}, importance=False
        )
        current = train(self.examples, self.settings, options, now_ms=START).manifest
        manage_models.register(self.settings, "fraud@1")
        start = ModelChange(model="fraud@1", hash=current.scoring_hash, how="start")
        self.changes.append(start)

    def retrain(self, *, sign: bool = False, **options: Any) -> retrain.Step:
        history = ChangeHistory(
            [LoggedChange(0, n, START + n, one) for n, one in enumerate(self.changes)]
        )
        given: dict[str, Any] = {"name": None, "min_new": 100, "promote": False, "now_ms": NOW}
        call = retrain.Retraining(
            self.settings, None, history,  # type: ignore[arg-type]
            key=self.key if sign else None, stage=lambda *_: nullcontext(lambda _: None), **(given | options),
        )  # fmt: skip
        return asyncio.run(call.step())

    def manifest(self, model: str = "fraud@2") -> Manifest:
        return self._entry_of(None, None, model).manifest

    def signer(self, model: str = "fraud@2") -> str | None:
        signature = self.manifest(model).signature
        return signature and signature.key

    async def _send(self, _settings: Settings, *changes: AnyChange) -> None:
        if self.away:
            raise UnavailableError("no Kafka")  # noqa: EM101
        self.changes.extend(changes)

    def _entries(self) -> list[Entry]:
        found = sorted(self._registry.glob("*"))
        return [Entry(one, read_manifest(one)) for one in found]

    def _entry_of(self, _settings: object, _session: object, wanted: str) -> Entry:
        for one in self._entries():
            if wanted in (one.model, one.manifest.scoring_hash):
                return one
        raise NotFoundError(wanted)

    def _holder_of(self, settings: Settings, catalogue: Catalogue) -> ModelHolder:
        folders = ArtifactFolders(self._registry)
        return ModelHolder(folders, catalogue, 2, trust=trust_of(settings))

    def _list(self, *_: object) -> list[RegisteredModel]:
        found = []
        for one in self._entries():
            told = one.manifest
            found.append(
                RegisteredModel(told.name, told.version, told.scoring_hash, told.sha256, 1, 1, "me")
            )
        return found

    def _register(self, _session: object, _settings: object, entry: Entry, _by: str) -> bool:
        shutil.copytree(entry.folder, self._registry / entry.folder.name)
        return True

    def _keep_signed(
        self, _session: object, _settings: object, entry: Entry, manifest: str
    ) -> None:
        (entry.folder / MANIFEST_FILE).write_text(manifest)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A deployment that requires signatures."""
    return Rig(tmp_path, monkeypatch, signed=True)


def test_labels_that_come_early_do_not_bias_the_training(rig: Rig) -> None:
    """The test period of five days would hold nothing but frauds."""
    whole = rig.examples.until(NOW - DELAY_MS)
    rig.examples = frauds_first(rig.examples)
    step = rig.retrain()
    assert step.did == "trained", step.lines
    told = rig.manifest().trained
    assert told["rows"] == len(whole.is_fraud)
    assert told["frauds"] == np.count_nonzero(whole.is_fraud)
    assert told["source"]["until_ms"] == whole.event_time_ms.max()
    assert told["periods"]["test_ms"] == 5 * DAY_MS
    assert rig.manifest().metrics["rows"] == 5 * 40


def test_only_old_enough_transactions_count_as_new(rig: Rig) -> None:
    rig.examples = frauds_first(rig.examples)
    assert rig.retrain().did == "trained"
    rig.changes.append(ModelChange(model="fraud@2", hash=rig.manifest().scoring_hash))
    # a day has become old enough, and of it only frauds have labels
    rig.examples = frauds_first(stored(rig.settings))
    step = rig.retrain(now_ms=NOW + DAY_MS)
    assert step.did == "waits"
    assert "nothing to do: 4 labelled transactions since 2025-02-23T" in step.lines[0]
    assert "100 are needed (--min-new); those of the last 7d do not count yet" in step.lines[0]
    rig.examples = stored(rig.settings)  # labels of the others have come
    assert rig.retrain(now_ms=NOW + DAY_MS).lines[0].startswith("nothing to do: 40 labelled")
    assert rig.retrain(now_ms=NOW + 3 * DAY_MS).did == "trained"


def test_nothing_is_old_enough(rig: Rig) -> None:
    assert "nothing to do: 0 labelled" in rig.retrain(now_ms=START).lines[0]


def test_the_comparison_knows_the_label_delay(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    async def gate(*_: Any, **options: Any) -> dict[str, Any]:
        given.update(options)
        return await passes()

    rig.retrain()
    monkeypatch.setattr(retrain.gate_scores, "gate", gate)
    assert rig.retrain().did == "passed"
    assert given["labels_until_ms"] == NOW - DELAY_MS


async def passes(*_: Any, **__: Any) -> dict[str, Any]:
    return {
        "frauds_compared": 40, "difference": {}, "days": 3.0, "passed": True, "undecided": False, "reasons": [],
    }  # fmt: skip


def test_it_learns_from_the_newest_labels(rig: Rig) -> None:
    """Not only up to the test period and the delay before it: 12 days more."""
    rig.retrain()
    told = rig.manifest().trained
    first, second = rig.manifest("fraud@1").trained, told
    assert first["learned_to"] < first["judged_from"]
    assert second["learned_to"] == second["judged_to"] == "2025-02-23T00:00:00Z"
    assert second["learned_rows"] == first["learned_rows"]  # as many days, later


def test_labels_that_do_not_decide_keep_it_a_shadow(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {
        "passed": False,
        "undecided": True,
        "reasons": ["the difference may be as low as -0.03"],
    }

    async def gate(*_: Any, **__: Any) -> dict[str, Any]:
        return {**await passes(), **result}

    rig.retrain()
    monkeypatch.setattr(retrain.gate_scores, "gate", gate)
    before = list(rig.changes)
    step = rig.retrain(promote=True)
    assert (step.did, step.model) == ("waits", "fraud@2")
    assert "fraud@2 cannot be told from fraud@1 yet: 40 labelled frauds in 3 days" in step.lines[0]
    assert rig.changes == before
    result["days"] = 28.0
    assert rig.retrain(promote=True).did == "refused"


def test_a_call_whose_lock_was_lost_registers_and_promotes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise BusyError("another one has begun")  # noqa: EM101

    with pytest.raises(BusyError):
        rig.retrain(check=lost)
    assert [one.model for one in rig._list()] == ["fraud@1"]
    assert rig.retrain().did == "trained"
    monkeypatch.setattr(retrain.gate_scores, "gate", passes)
    before = list(rig.changes)
    with pytest.raises(BusyError):
        rig.retrain(promote=True, check=lost)
    assert rig.changes == before
    assert rig.retrain(promote=True).did == "promoted"


def test_what_the_guard_could_not_take_back_is_not_promoted(
    signed: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys were set while a model decides that nobody has signed."""
    signed.retrain(sign=True)
    monkeypatch.setattr(retrain.gate_scores, "gate", passes)
    before = list(signed.changes)
    says = "guard could not revert this promotion: .* current model any more .*fraud@1 is not signed.*--no-guard"
    with pytest.raises(UsageError, match=says):
        signed.retrain(promote=True)
    assert signed.changes == before
    first, second = signed.manifest("fraud@1").scoring_hash, signed.manifest().scoring_hash
    earlier = InForce(model=first, fallbacks=(EarlierModel("gone"), EarlierModel(second)))
    warning = revertible_promotion.check_restorable(signed.settings, earlier)
    assert "fraud@1 is not signed" in warning
    assert warning.endswith("): the guard would restore fraud@2 instead")
    manage_models.sign(signed.settings, "fraud@1", signed.key)
    step = signed.retrain(promote=True)
    assert (step.did, "warning" in step.lines[-1]) == ("promoted", False)


def test_the_new_model_is_signed_before_it_starts(signed: Rig) -> None:
    assert signed.retrain(sign=True).did == "trained"
    assert signed.signer() == PUBLIC
    assert isinstance(signed.changes[-1], ChallengerChange)


def test_without_a_key_it_does_not_start_and_the_next_call_with_one_signs_it(signed: Rig) -> None:
    for _ in range(2):
        with pytest.raises(SignatureError, match="fraud@2 is not signed"):
            signed.retrain()
    assert len(signed.changes) == 1
    step = signed.retrain(sign=True)
    assert (step.did, step.model, signed.signer()) == ("shadowed", "fraud@2", PUBLIC)


def test_a_call_that_ends_between_registering_and_signing_is_continued(
    signed: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise UnavailableError("no Cassandra")  # noqa: EM101

    with monkeypatch.context() as patch:
        patch.setattr(model_registry, "keep_signed", away)
        with pytest.raises(UnavailableError):
            signed.retrain(sign=True)
    assert signed.signer() is None
    assert signed.retrain(sign=True).did == "shadowed"
    assert signed.signer() == PUBLIC


def test_a_call_that_ends_after_signing_is_continued(signed: Rig) -> None:
    signed.away = True
    with pytest.raises(UnavailableError):
        signed.retrain(sign=True)
    signed.away = False
    assert signed.retrain(sign=True).did == "shadowed"


def test_what_was_not_trained_here_gets_no_signature(signed: Rig) -> None:
    """Somebody who can write to the registry must not get one by waiting for the next call."""
    with pytest.raises(SignatureError):
        signed.retrain()
    shutil.rmtree(signed.settings.home / "models" / "fraud-2")
    with pytest.raises(SignatureError, match="`fraudstream models sign fraud@2 --key FILE`"):
        signed.retrain(sign=True)
    assert signed.signer() is None
    manage_models.sign(signed.settings, "fraud@2", signed.key)  # by hand
    step = signed.retrain(sign=True)
    assert step.did == "shadowed"
    assert "fraud@2 was not trained on this machine: --sign has not signed it" in step.lines[0]


def test_there_is_no_room_for_a_challenger(rig: Rig) -> None:
    """They were started by hand: none of them was retrained."""
    for version in (7, 8, 9):
        told = json.loads((rig.settings.home / "models" / "fraud-1" / MANIFEST_FILE).read_text())
        folder = rig.settings.home / "registry" / f"other-{version}"
        shutil.copytree(rig.settings.home / "models" / "fraud-1", folder)
        (folder / MANIFEST_FILE).write_text(
            json.dumps(told | {"name": "other", "version": version})
        )
        model_hash = read_manifest(folder).scoring_hash
        rig.changes.append(ChallengerChange(model=f"other@{version}", hash=model_hash))
    before = len(rig.changes)
    with pytest.raises(UsageError) as error:
        rig.retrain()
    assert str(error.value) == (
        "there are 3 challengers already: other@7, other@8, other@9; stop one with `fraudstream models shadow NAME "
        "--stop`"
    )
    assert len(rig.changes) == before
    rig.changes.append(
        ChallengerChange(model="other@8", hash=rig.manifest("other@8").scoring_hash, share=None)
    )
    assert rig.retrain().did == "trained"
