"""What a model gives of each row, also where it fails for some: as the stream has null for those."""

from collections.abc import Callable

import numpy as np

from models.model_loader import Model


def scores_of_each(model: Model, rows: np.ndarray) -> np.ndarray:
    """Scores, shape (n,); NaN where there is none: the model raises, or gives none between 0 and 1."""
    scores = of_each(model.score, rows)
    scores[~((scores >= 0) & (scores <= 1))] = np.nan
    return scores


def of_each(function: Callable[[np.ndarray], np.ndarray | None], rows: np.ndarray) -> np.ndarray:
    """What a function gives of each row, shape (n,), a copy; NaN where it raises or gives nothing."""
    try:
        found = function(rows)
    except Exception:
        if len(rows) <= 1:
            return np.full(len(rows), np.nan)
        half = len(rows) // 2
        return np.concatenate((of_each(function, rows[:half]), of_each(function, rows[half:])))
    return np.full(len(rows), np.nan) if found is None else np.array(found, np.float64)
