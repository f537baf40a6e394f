"""Flags of a prediction, except those for evicted entries (`inexact:...`; see the features' readings)."""

#: The anomaly score reaches the model's threshold.
ANOMALY = "anomaly"
