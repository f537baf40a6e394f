"""What is learned from: features and labels as columns."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """What is learned from: features and labels, row i of every array being transaction i.

    Attributes:
        features: (n, k), the catalogue's features in order, finite.
        fraud: (n,) labels, bool.
        times: (n,) epoch milliseconds.
        card: (n,) identifiers.
        kind: (n,) names of the kind of fraud, where they are known.
    """

    features: np.ndarray
    fraud: np.ndarray
    times: np.ndarray
    card: np.ndarray
    kind: np.ndarray | None = None
