"""Which features a model goes by: what its ranking loses when one is shuffled."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

#: Rows that are shuffled at most: every feature is scored anew for all of them.
MOST_ROWS = 20_000


def permutation_importance(
    score: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    features: npt.NDArray[np.float64],
    fraud: npt.NDArray[np.bool_],
    names: Sequence[str],
    seed: int,
) -> dict[str, float]:
    """Average precision that is lost when a feature's values are dealt out anew among the rows.

    Features that tell the same news stand in for each other: each of them alone looks dispensable.

    Args:
        score: probabilities of rows.
        features: (n, k) of transactions that were not learned from.
        fraud: (n,) labels.
        names: the k features.
        seed: equal seeds shuffle alike.

    Returns:
        Feature -> loss, the greatest first; around 0 for what the model does not use.
    """
    rng = np.random.default_rng(seed)
    if len(features) > MOST_ROWS:
        # all frauds, and of the others as many as there is room for: precision is then not that of the stream
        drawn = rng.permutation(np.flatnonzero(~fraud))[
            : MOST_ROWS - min(fraud.sum(), MOST_ROWS // 2)
        ]
        rows = np.concatenate([rng.permutation(np.flatnonzero(fraud))[: MOST_ROWS // 2], drawn])
        features, fraud = features[rows], fraud[rows]
    whole = average_precision_score(fraud, score(features))
    lost = {}
    for index, name in enumerate(names):
        shuffled = features.copy()
        shuffled[:, index] = rng.permutation(shuffled[:, index])
        lost[name] = float(whole - average_precision_score(fraud, score(shuffled)))
    return dict(sorted(lost.items(), key=lambda pair: -pair[1]))
