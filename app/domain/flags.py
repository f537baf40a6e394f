"""Flags of a prediction that are not about evicted entries (`inexact:...`; see the features' readings)."""

#: Its anomaly score reaches the model's threshold.
ANOMALY = "anomaly"
