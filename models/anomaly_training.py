"""Fits the isolation forest of a model: how odd a transaction is among others, labels unseen."""

from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

from models.scoring import AnomalyScorer
from models.splits import Labels, Split
from models.training_candidates import Floats

#: As its inventors have it (Liu et al. 2008); more do not change the ranking much.
TREES = 100
#: Share of the validation slice whose anomaly scores reach the threshold.
FLAGGED_SHARE = 0.005


def isolate(
    features: Floats, fraud: Labels, split: Split, seed: int
) -> tuple[IsolationForest, dict[str, Any]]:
    """Fit on the train slice, choose the threshold on the validation slice, judge on the test slice.

    Args:
        features: (n, k), finite, none of them from labels.
        fraud: (n,) labels, for the judgement alone.
        split: slices of the rows.
        seed: equal seeds draw equal trees.

    Returns:
        The forest, and `threshold`, `trained` and `metrics` of its manifest.
    """
    isolation = IsolationForest(n_estimators=TREES, random_state=seed).fit(features[split.train])
    scorer = AnomalyScorer(isolation, range(features.shape[1]))
    threshold = float(np.quantile(scorer.score(features[split.valid]), 1 - FLAGGED_SHARE))
    scores, labels = scorer.score(features[split.test]), fraud[split.test]
    flagged = scores >= threshold
    return isolation, {
        "threshold": threshold,
        "trained": {
            "rows": int(np.count_nonzero(split.train)),
            "parameters": {"trees": TREES, "rows_a_tree": int(isolation.max_samples_)},
            "seed": seed,
            "threshold_by": f"{FLAGGED_SHARE:.1%} of the validation slice",
        },
        "metrics": {
            "auc": float(roc_auc_score(labels, scores)),
            "average_precision": float(average_precision_score(labels, scores)),
            "average_precision_by_chance": float(np.mean(labels)),
            "flagged": int(np.count_nonzero(flagged)),
            "flagged_frauds": int(np.count_nonzero(flagged & labels)),
        },
    }
