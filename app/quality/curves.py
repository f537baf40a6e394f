"""Curves of labelled decisions: precision against recall, and observed frauds against scores. Pure."""

from typing import Any

import numpy as np

from app.quality.decision_tally import STEPS, score_of

#: Points of a curve at most, and bins of scores.
_POINTS, _BINS = 100, 10


def curves(scores: np.ndarray) -> dict[str, Any]:
    """What charts draw.

    Args:
        scores: labelled transactions by step of their score, shape (2, `STEPS`): genuine ones and frauds.

    Returns:
        `precision_recall`: threshold, recall and precision of each point, recall rising; empty without a fraud.
        `calibration`: of each tenth of the scores with labels the mean score, the share of frauds and the number of
        labels.
    """
    return {"precision_recall": _precision_recall(scores), "calibration": _calibration(scores)}


def _precision_recall(scores: np.ndarray) -> list[list[float]]:
    genuine, frauds = scores[:, ::-1]
    total = int(frauds.sum())
    if not total:
        return []
    found = np.cumsum(frauds)
    precision = found / np.maximum(found + np.cumsum(genuine), 1)
    edges = score_of(np.arange(STEPS))[::-1]  # the lowest score of each step
    at = np.flatnonzero(frauds)  # only there recall rises
    if len(at) > _POINTS:
        at = at[np.unique(np.linspace(0, len(at) - 1, _POINTS).round().astype(int))]
    return [
        [round(float(edges[i]), 6), round(float(found[i]) / total, 4), round(float(precision[i]), 4)]
        for i in at
    ]  # fmt: skip


def _calibration(scores: np.ndarray) -> list[list[float]]:
    middle = score_of(np.arange(STEPS) + 0.5)
    which = np.minimum((middle * _BINS).astype(int), _BINS - 1)
    found = []
    for number in range(_BINS):
        genuine, frauds = (int(kind[which == number].sum()) for kind in scores)
        count = genuine + frauds
        if count:
            weights = scores.sum(axis=0)[which == number]
            mean = float((middle[which == number] * weights).sum()) / count
            found.append([round(mean, 4), round(frauds / count, 4), count])
    return found
