"""The lines of the table, from what Cassandra holds: scores of the live pass, and models learned from its features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import average_precision_score, roc_auc_score

from app.domain.features.feature_sets import SHAPED
from app.lab.handbook.plan import ENGINEERED, Figures, Plan, Recipe
from app.ops.feature_choice import choose_features
from app.settings import Settings
from models.backtest import judge_weeks
from models.evaluation_sets import card_precision, on_known_cards, rank
from models.splits import Periods, split_by_periods
from models.training_candidates import Fitted, Floats, candidates_of, fit_best
from models.training_examples import Examples

#: The Handbook's regularisation; scikit-learn's default.
_ITS_OWN: Mapping[str, float] = {"C": 1}

#: Told what is learned now.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Lines:
    """What was measured, by line of the table.

    Attributes:
        first: figures of the first week that judges.
        weeks: the champion's figures of each week.
        general: the champion's of the first week without the features that the simulator's frauds have shaped.
        live: figures of the stored scores of each week, by whichever model decided; none if it was not retrained.
    """

    first: dict[str, Figures]
    weeks: list[Figures]
    general: Figures
    live: tuple[Figures, ...] = ()

    @property
    def mean(self) -> Figures:
        """The champion's mean over the weeks."""
        return mean_of(self.weeks)


def mean_of(figures: list[Figures]) -> Figures:
    """The mean of each figure."""
    return Figures(*(mean(each) for each in zip(*figures, strict=True)))


def ranking_figures(scores: np.ndarray, examples: Examples, periods: Periods) -> Figures:
    """Figures of scores in the test period, without the cards that are known to be compromised.

    Args:
        scores: (n,), one for each example.
        examples: labels, times and cards; their features are not looked at.
        periods: which of them judge.
    """
    times, fraud, card = examples.event_time_ms, examples.is_fraud, examples.card_id
    inside = (times >= periods.test_from) & (times < periods.test_to)
    rows = np.flatnonzero(inside)
    rows = rows[~on_known_cards(card, times, fraud, inside, periods.delay_ms)]
    found, labels = scores[rows], fraud[rows]
    return Figures(
        float(roc_auc_score(labels, found)),
        float(average_precision_score(labels, found)),
        card_precision(rank(found, labels, card[rows], times[rows])),
    )


def judge(
    settings: Settings,
    plan: Plan,
    examples: Examples,
    *,
    scores: np.ndarray,
    anomalies: np.ndarray,
    champion: Any,
    cores: int,
    tell: Tell,
) -> Lines:
    """Every line.

    Args:
        settings: feature sets.
        plan: periods and recipe.
        examples: stored features of every transaction, oldest first, and labels.
        scores: (n,) the champion's, as they were stored.
        anomalies: (n,) its isolation forest's.
        champion: the estimator that gave the scores; it is cloned, never changed.
        cores: how many to train on.
        tell: told what is learned now.

    Raises:
        UsageError: a period holds no frauds.
    """
    a_week = plan.a_week()
    first = {
        "champion": ranking_figures(scores, examples, a_week),
        "isolation": ranking_figures(anomalies, examples, a_week),
    }
    for name, features, fixed in (
        ("fifteen", "handbook", _ITS_OWN),
        ("engineered", ENGINEERED, None),
    ):
        tell(f"logistic regression, {features} features")
        first[f"logistic, {name}"] = _logistic(settings, examples, a_week, features, fixed)
    chosen = choose_features(settings, ENGINEERED)
    periods = plan.champions(int(examples.event_time_ms[0]))
    general = [
        column
        for name, column in zip(chosen.names, chosen.columns, strict=True)
        if name not in SHAPED
    ]

    for name, figures in first.items():
        tell(f"{name}: {' / '.join(f'{each:.4f}' for each in figures if each is not None)}")
    tell(
        "champion, retrained for each later week, and once without the features shaped by the simulator"
    )
    cases = [(general, 0), *((chosen.columns, week) for week in range(1, plan.weeks))]
    without, *later = _weekly(_learned(champion, plan.recipe), examples, periods, cases, cores)
    live = [ranking_figures(scores, examples, periods.later(week)) for week in range(plan.weeks)]
    # the one of the first week is the one that scored live: of the same features, to the bit
    return Lines(first, [first["champion"], *later], without, tuple(live) if plan.weekly else ())


def _learned(champion: Any, recipe: Recipe) -> Fitted:
    """An estimator as what a recipe gave: a kind that learns from a part of the genuine ones does so again."""
    genuine = candidates_of(recipe.kind, recipe.seed, recipe.fixed)[0].genuine
    return Fitted(champion, {}, (), (), genuine, recipe.seed)


def _weekly(
    champion: Fitted,
    examples: Examples,
    periods: Periods,
    cases: Sequence[tuple[list[int], int]],
    cores: int,
) -> list[Figures]:
    """The figures of each case, columns and the number of a week, side by side.

    One fit takes one thread, because the number of threads changes the order of its sums.
    """
    bare = replace(examples, features=examples.features[:, :0])
    found: list[Figures] = Parallel(n_jobs=cores)(
        delayed(_week)(champion, examples.features, columns, bare, periods.later(week))
        for columns, week in cases
    )
    return found


def _week(
    champion: Fitted, features: Floats, columns: list[int], examples: Examples, periods: Periods
) -> Figures:
    return _figures(judge_weeks(champion, features[:, columns], examples, periods, 1)[0])


def _logistic(
    settings: Settings,
    examples: Examples,
    periods: Periods,
    features: str,
    fixed: Mapping[str, float] | None,
) -> Figures:
    columns = examples.features[:, choose_features(settings, features).columns]
    split = split_by_periods(examples.event_time_ms, examples.is_fraud, periods)
    fitted = fit_best("logistic", columns, examples.is_fraud, split, fixed=fixed)
    return _figures(judge_weeks(fitted, columns, examples, periods, 1)[0])


def _figures(week: dict[str, Any]) -> Figures:
    return Figures(week["auc"], week["average_precision"], week["card_precision_at_100"])


def parameters(recipe: Recipe, chosen: dict[str, Any]) -> str:
    """The recipe in words, with what was chosen."""
    told = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"{recipe.kind} ({told})" if told else recipe.kind
