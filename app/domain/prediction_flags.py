"""Flags of a prediction, except those for evicted entries (`inexact:...`; see the features' readings)."""

#: More than the allowed lateness behind its card's newest event time: it never counts for others.
LATE = "late"
#: Not the newest of its card, and no more than the allowed lateness behind.
OUT_OF_ORDER = "out_of_order"
#: Its id is that of an earlier transaction of its card with another event time or amount: it never counts for others.
CONFLICTING = "conflicting"
#: The amount is high for its card: what is known of a terminal weighs it (see `terminal_plain_streak`).
HIGH_AMOUNT = "high_amount"
#: The anomaly score reaches the model's threshold.
ANOMALY = "anomaly"
