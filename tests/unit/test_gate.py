"""The gate: figures of two models over the same transactions, and which challengers it refuses."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from app.cli import model_gate
from app.ops.gate_scores import _begin
from app.ops.row_by_row_scores import scores_of_each
from app.quality.gate_limits import ScorePair, compare, is_undecided, refusals, stability
from app.quality.verdicts import UNKNOWN

DAY_MS = 86_400_000
COUNT = 6_000


def pair(**changes: Any) -> ScorePair:
    """A champion that finds most frauds, and a challenger a bit better; over 60 days, 300 cards."""
    rng = np.random.default_rng(3)
    fraud = rng.random(COUNT) < 0.03
    truth = np.where(fraud, 1.5, -3.0) + rng.normal(0, 1, COUNT)
    both = {
        "champion": 1 / (1 + np.exp(-truth - rng.normal(0, 0.7, COUNT))),
        "challenger": 1 / (1 + np.exp(-truth - rng.normal(0, 0.5, COUNT))),
        "verdict": fraud.astype(np.int8),
        "card": rng.integers(0, 300, COUNT),
        "event_time_ms": np.sort(rng.integers(0, 60 * DAY_MS, COUNT)),
    }
    made = ScorePair(**both)
    return made._replace(**{name: change(made) for name, change in changes.items()})


def refused(found: ScorePair, thresholds: tuple[float, float] = (0.5, 0.5), **times: float) -> str:
    figures = compare(found, thresholds=thresholds, delay_ms=7 * DAY_MS)
    for name, microseconds in times.items():
        figures[name]["microseconds"] = microseconds
    return "; ".join(refusals(figures))


def test_a_better_model_passes() -> None:
    figures = compare(pair(), thresholds=(0.5, 0.5), delay_ms=7 * DAY_MS)
    assert refusals(figures) == []
    difference = figures["difference"]["average_precision"]
    assert difference["interval"][0] < difference["value"] < difference["interval"][1]
    assert difference["value"] == pytest.approx(
        figures["challenger"]["average_precision"] - figures["champion"]["average_precision"]
    )


def test_the_same_model_differs_by_nothing() -> None:
    figures = compare(
        pair(challenger=lambda p: p.champion), thresholds=(0.5, 0.5), delay_ms=7 * DAY_MS
    )
    for one in figures["difference"].values():
        assert one == {"value": 0.0, "interval": [0.0, 0.0]}
    assert figures["psi"] == 0
    assert refusals(figures) == []


def test_figures_are_those_of_scikit_learn() -> None:
    found = pair()
    # labels come so late that no card is known to be defrauded
    figures = compare(found, thresholds=(0.5, 0.5), delay_ms=999 * DAY_MS)
    for name in ("champion", "challenger"):
        wanted = average_precision_score(found.verdict, getattr(found, name))
        assert figures[name]["average_precision"] == pytest.approx(wanted)
        alerts = (getattr(found, name) >= 0.5).sum()
        assert figures[name]["alerts_per_day"] == pytest.approx(alerts / figures["days"], rel=1e-3)


def test_a_draw_is_the_same_every_time() -> None:
    one, other = (compare(pair(), thresholds=(0.5, 0.5), delay_ms=0) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("changes", "thresholds", "why"),
    [
        ({"challenger": lambda p: 1 - p.challenger}, (0.5, 0.5), "average precision 0.0"),
        ({"challenger": lambda p: np.full(COUNT, np.nan)}, (0.5, 0.5), "gives no score"),
        ({}, (0.5, 0.0), "flagged per day instead of"),
        ({}, (0.5, 1.0), "only 0.0 flagged per day"),
        (
            {"challenger": lambda p: p.verdict * 0.9 + 0.05, "champion": lambda p: p.champion * (p.card % 3 > 0)},
            (0.5, 0.5), "too good",
        ),
        ({"challenger": lambda p: p.challenger * 0 + 0.5}, (0.5, 0.5), "the difference may be as low as"),
        ({"verdict": lambda p: np.full(COUNT, -1, np.int8)}, (0.5, 0.5), "0 of 0 labelled"),
        (
            {"verdict": lambda p: np.where(np.arange(COUNT) < 300, p.verdict, 0).astype(np.int8)},
            (0.5, 0.5), "20 are needed to compare: wait for labels",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(
    changes: dict[str, Any], thresholds: tuple[float, float], why: str
) -> None:
    assert why in refused(pair(**changes), thresholds)


def test_frauds_that_take_no_part_do_not_count() -> None:
    """Labels come at once: of each card only the first day of fraud is compared."""

    def few(p: ScorePair) -> np.ndarray:
        return np.where((p.card < 15) & (np.arange(COUNT) % 3 == 0), 1, 0).astype(np.int8)

    found = pair()
    figures = compare(
        found._replace(verdict=few(found)), thresholds=(0.5, 0.5), delay_ms=0
    )  # fmt: skip
    assert figures["frauds_compared"] < 20 < figures["frauds"]
    (why,) = (text for text in refusals(figures) if "needed to compare" in text)
    assert f"({figures['frauds_compared']} on cards that were not known to be defrauded)" in why


def test_an_interval_that_is_no_number_is_no_pass() -> None:
    figures = compare(pair(), thresholds=(0.5, 0.5), delay_ms=7 * DAY_MS)
    figures["difference"]["card_precision_at_100"]["interval"] = [np.nan, np.nan]
    assert "card precision@100" in "; ".join(refusals(figures))


def test_what_the_other_model_does_not_score_is_not_held_against_the_challenger() -> None:
    def some(scores: np.ndarray) -> np.ndarray:
        return np.where(np.arange(COUNT) < 9, np.nan, scores)

    assert refused(pair(champion=lambda p: some(p.champion))) == ""
    text = refused(pair(challenger=lambda p: some(p.challenger)))
    assert "it gives no score between 0 and 1 for 9 of 6,000 transactions" in text


def test_one_that_is_ten_times_slower() -> None:
    assert "300 us per transaction instead of 30" in refused(pair(), champion=30, challenger=300)
    assert refused(pair(), champion=0.5, challenger=27) == ""  # a forest after a regression
    assert refused(pair(), champion=80, challenger=90) == ""


def test_labels_of_later_transactions_are_left_out() -> None:
    whole, last = pair(), 30 * DAY_MS
    found = whole.labels_until(last)
    old = whole.event_time_ms <= last
    assert found.verdict[old].tolist() == whole.verdict[old].tolist()
    assert set(found.verdict[~old]) == {UNKNOWN}
    figures = compare(found, thresholds=(0.5, 0.5), delay_ms=7 * DAY_MS)
    assert (figures["transactions"], figures["labelled"]) == (COUNT, np.count_nonzero(old))


def test_the_index_of_stability() -> None:
    scores = np.random.default_rng(1).random(10_000)
    assert stability(scores, scores) == 0
    assert stability(scores, np.sqrt(scores)) > 0.25  # type: ignore[operator]
    assert stability(scores, np.random.default_rng(2).random(10_000)) < 0.01  # type: ignore[operator]
    assert stability(scores, np.empty(0)) is None


def test_rows_that_make_a_model_raise_have_no_score() -> None:
    class Model:
        def score(self, rows: np.ndarray) -> np.ndarray:
            if (rows == 3).any():
                raise ValueError
            return rows[:, 0]

    rows = np.array([[0.5], [3], [0.25], [7], [np.nan]])
    found = scores_of_each(Model(), rows)  # type: ignore[arg-type]
    assert np.isnan(found).tolist() == [False, True, False, True, True]
    assert found[[0, 2]].tolist() == [0.5, 0.25]


def manifest(**trained: Any) -> Any:
    return SimpleNamespace(trained=trained)


def test_neither_model_is_compared_on_what_it_was_fitted_on() -> None:
    days = [f"1970-01-0{day}T00:00:00Z" for day in range(1, 9)]
    held_out = manifest(judged_from=days[3], learned_to=days[1])
    refit = manifest(judged_from=days[3], learned_to=days[5], refit=True)
    imported = manifest()
    assert _begin(held_out, imported, None) == 3 * DAY_MS
    assert _begin(refit, imported, None) == 5 * DAY_MS + 1_000
    assert _begin(refit, imported, DAY_MS) == 5 * DAY_MS + 1_000  # --from cannot go behind it
    assert _begin(refit, imported, 6 * DAY_MS) == 6 * DAY_MS
    # a current model that is newer than the challenger
    assert _begin(held_out, refit, None) == 5 * DAY_MS + 1_000
    assert _begin(imported, refit, DAY_MS) == 5 * DAY_MS + 1_000
    assert _begin(refit, held_out, None) == 5 * DAY_MS + 1_000
    simulated = manifest(learned_to=days[7], source={"simulated": {}})
    assert _begin(held_out, simulated, None) == 3 * DAY_MS


def test_cards_that_a_refit_has_learned_frauds_of_do_not_count() -> None:
    whole = pair()
    found = whole.without_labels_of([3, 5])
    some = np.isin(whole.card, [3, 5])
    assert set(found.verdict[some]) == {UNKNOWN}
    assert found.verdict[~some].tolist() == whole.verdict[~some].tolist()
    assert whole.without_labels_of([]).verdict.tolist() == whole.verdict.tolist()


def test_only_a_wide_interval_is_undecided() -> None:
    def judged(found: ScorePair, **figures: Any) -> bool:
        told = compare(found, thresholds=(0.5, 0.5), delay_ms=7 * DAY_MS)
        if figures:
            told["difference"]["average_precision"] |= figures
        return is_undecided(told)

    assert not judged(pair())  # it passes
    assert judged(pair(), interval=[-0.04, 0.03])
    assert not judged(pair(), interval=[-0.04, -0.01])  # it is worse
    assert not judged(pair(), interval=[np.nan, np.nan])
    assert not judged(pair(challenger=lambda p: p.challenger * 0 + 0.5))
    none = pair(challenger=lambda p: np.where(p.card == 1, np.nan, p.challenger))
    assert not judged(none, interval=[-0.04, 0.03])  # nor will more labels give it scores
    assert not judged(pair(verdict=lambda p: np.full(COUNT, UNKNOWN, np.int8)))


def test_the_report_says_what_matters() -> None:
    figures = compare(pair(), thresholds=(0.5, 0.0), delay_ms=7 * DAY_MS)
    reasons = refusals(figures)
    for name in ("champion", "challenger"):
        figures[name]["microseconds"] = 2.5
    result = {
        "model": "fraud@2", "against": "default@2", "from_ms": 0, "passed": False, "reasons": reasons,
        "undecided": False, **figures,
    }  # fmt: skip
    text = "\n".join(model_gate._lines(result))
    for part in ("average precision", "95 % interval", "PSI", "refused: 100.0 flagged", "--force"):
        assert part in text
    assert "neither a better nor a worse" not in text
    undecided = "\n".join(model_gate._lines(result | {"undecided": True}))
    assert "neither a better nor a worse model: run this again" in undecided
