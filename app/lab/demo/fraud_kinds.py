"""Kinds of fraud as the demo tells them apart: at a compromised terminal, only a known fraud can give it away."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.durations import DAY_MS
from app.lab.simulation.frauds import AMOUNT, CARD, KINDS, NONE, TERMINAL
from app.lab.simulation.transactions import SimulatedTransactions

#: At a terminal of which no fraud is known yet.
FIRST_AT_TERMINAL = "terminal_first"
#: In the order of the summary.
FRAUDS = (KINDS[AMOUNT], KINDS[TERMINAL], FIRST_AT_TERMINAL, KINDS[CARD])
GENUINE = KINDS[NONE]
#: How far back what is known of a terminal counts, behind the label delay.
_LOOK_BACK_MS = 30 * DAY_MS


def kinds_of(transactions: SimulatedTransactions, label_delay_ms: int) -> list[str]:
    """The kind of each transaction.

    Args:
        transactions: sorted by event time.
        label_delay_ms: age at which the label of a fraud counts for its terminal.
    """
    kinds = [KINDS[kind] for kind in transactions.kind.tolist()]
    times, terminals = transactions.event_time_ms, transactions.terminal
    frauds = np.flatnonzero(transactions.kind)
    for row in np.flatnonzero(transactions.kind == TERMINAL).tolist():
        known_until = times[row] - label_delay_ms
        before = frauds[
            (terminals[frauds] == terminals[row])
            & (times[frauds] <= known_until)
            & (times[frauds] > known_until - _LOOK_BACK_MS)
        ]
        if not len(before):
            kinds[row] = FIRST_AT_TERMINAL
    return kinds


def is_flagged(prediction: Mapping[str, Any]) -> bool:
    """Whether the model or a rule flags a transaction: it is not approved."""
    return bool(prediction["action"] != "approve")
