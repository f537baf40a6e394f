"""Judges a kind of model week after week, each time trained anew, as a deployment would train it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from app.errors import UsageError
from models.evaluation_sets import card_precision, on_known_cards, rank
from models.scoring import positive_column
from models.splits import Periods, in_training
from models.training_candidates import Fitted, Floats, refit
from models.training_examples import Examples


def judge_weeks(
    fitted: Fitted,
    features: Floats,
    examples: Examples,
    periods: Periods,
    weeks: int,
    *,
    tell: Callable[[int], None] = lambda _done: None,
) -> list[dict[str, Any]]:
    """The figures of each week by a model of the same parameters, trained on periods so much later.

    Parameters stay as they were chosen before the first week: no week that judges has chosen anything.

    Args:
        fitted: what was chosen.
        features: (n, k), those that it takes.
        examples: the same transactions; their features are not looked at.
        periods: of the first week.
        weeks: how many.
        tell: called with the number of weeks done.

    Returns:
        For each week its beginnings (`train_from`, `test_from`: days), `auc`, `average_precision` and
        `card_precision_at_100`, without the cards that are known to be compromised.

    Raises:
        UsageError: a week has no transactions, or nothing to tell apart.
    """
    times, fraud, card = examples.event_time_ms, examples.is_fraud, examples.card_id
    found = []
    for number in range(weeks):
        tell(number)
        these = periods.later(number)
        inside = (times >= these.test_from) & (times < these.test_to)
        rows = np.flatnonzero(inside)
        if len(rows):
            rows = rows[~on_known_cards(card, times, fraud, inside, these.delay_ms)]
        labels = fraud[rows]
        if not labels.any() or labels.all():
            msg = (
                f"--weeks {weeks}: the week from {_day(these.test_from)} has {np.count_nonzero(labels)} frauds "
                f"in {len(labels)} labelled transactions; give fewer weeks"
            )
            raise UsageError(msg)
        estimator = refit(fitted, features, fraud, in_training(times, these)).estimator
        scores = estimator.predict_proba(features[rows])[:, positive_column(estimator)]
        found.append(
            {
                "train_from": _day(these.train_from),
                "test_from": _day(these.test_from),
                "auc": float(roc_auc_score(labels, scores)),
                "average_precision": float(average_precision_score(labels, scores)),
                "card_precision_at_100": card_precision(
                    rank(scores, labels, card[rows], times[rows])
                ),
            }
        )
    tell(weeks)
    return found


def _day(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d")
