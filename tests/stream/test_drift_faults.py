"""What breaks in feeds, through the code of both stages, is named within 5,000 transactions; quiet ones raise nothing.

`fraudstream drift --inject` is the same with more cards and 100,000 quiet transactions.
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.durations import DAY_MS
from app.lab.drift.faults import FAULTS, Fault
from app.lab.drift.inject import Laboratory
from app.ops.training_features import compute_features
from app.quality.drift_comparison import LabelArrivals, ObservedTransactions, bin_features, compare
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from models.training_distribution import WINDOW, Described, Distribution, describe, windows_of
from tests import handbook
from tests.seed import SEED

QUIET = 2 * WINDOW


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    folder: Path = tmp_path_factory.mktemp("drift") / "model"
    return Laboratory(Settings(), folder, cards=300, seed=SEED, quiet=QUIET)


def test_quiet_transactions_raise_nothing(laboratory: Laboratory) -> None:
    assert laboratory.quiet(QUIET) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named(laboratory: Laboratory, fault: Fault) -> None:
    named = laboratory.inject(fault)
    assert named.after is not None, named.others
    assert named.after <= WINDOW


def test_every_kind_of_fault_is_there() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 12
    assert len({fault.detector for fault in FAULTS}) >= 12


@pytest.mark.bench
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(handbook.PATH is None, reason="the Handbook's transactions are not here")
def test_the_handbooks_days_raise_nothing() -> None:
    """A model of the first 50 days, described with the next 20; then every window from day 37 to the last, day 183."""
    settings = Settings(features=("engineered", "label_free"))
    rows = handbook.read()
    names = catalogue_of(settings).names
    features = compute_features(rows, settings, cores=2)
    times, day = rows.event_time_ms, (rows.event_time_ms - rows.event_time_ms[0]) // DAY_MS
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    scores = model.fit(features[day < 50], rows.is_fraud[day < 50]).predict_proba(features)[:, 1]
    unseen, trained = (day >= 50) & (day < 70), day < 70
    threshold = float(np.quantile(scores[unseen], 0.995))
    data = Described(
        names,
        features[trained],
        np.where(unseen, scores, np.nan)[trained],
        rows.is_fraud[trained],
        times[trained],
        rows.card_id[trained],
        rows.terminal_id[trained],
    )
    told = describe(data, threshold=threshold, warm_up_ms=37 * DAY_MS, timezone="UTC")
    distribution = Distribution.model_validate(told)
    live = np.flatnonzero(day >= 37)
    none = np.zeros(len(live), bool)
    observed = ObservedTransactions(
        *bin_features(distribution, features[live]),
        distribution.score.codes(scores[live]),
        scores[live] >= threshold,
        features[live, names.index("amount")],
        times[live],
        times[live] + 50,
        rows.card_id[live].astype(np.int64) + 1,
        rows.terminal_id[live].astype(np.int64) + 1,
        none,
        none,
    )
    windows = windows_of(len(live))
    assert len(windows) > 250
    for part in windows:
        frauds = int(rows.is_fraud[live[part]].sum())
        found = compare(
            distribution, observed.take(part), labels=LabelArrivals(WINDOW, frauds, 0, 0)
        )
        assert found.findings == ()
