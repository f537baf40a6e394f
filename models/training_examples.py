"""What is learned from: features and labels as columns."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """What is learned from: features and labels, row i of every array being transaction i.

    Attributes:
        features: (n, k), the catalogue's features in order, finite.
        is_fraud: (n,) labels, bool.
        event_time_ms: (n,) epoch milliseconds.
        card_id: (n,) identifiers.
        kind: (n,) names of the kind of fraud, where they are known.
        terminal_id: (n,) identifiers, empty where there is none; None: they are not known.
    """

    features: np.ndarray
    is_fraud: np.ndarray
    event_time_ms: np.ndarray
    card_id: np.ndarray
    kind: np.ndarray | None = None
    terminal_id: np.ndarray | None = None

    def until(self, last_ms: int) -> "Examples":
        """Those with event times up to this one, epoch milliseconds."""
        rows = self.event_time_ms <= last_ms
        return Examples(
            self.features[rows],
            self.is_fraud[rows],
            self.event_time_ms[rows],
            self.card_id[rows],
            None if self.kind is None else self.kind[rows],
            None if self.terminal_id is None else self.terminal_id[rows],
        )
