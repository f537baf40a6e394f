"""Prometheus metrics with a series per key."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


def _labelled(kind: Any, name: str, text: str, numbers: Mapping[Any, float | None]) -> Metric:
    """A metric with one series per key.

    Args:
        kind: of metric.
        name: its name and labels: `name{label,label}`.
        text: its help.
        numbers: values by label, or by a tuple of labels; None: this series is left out.
    """
    name, _, labels = name.rstrip("}").partition("{")
    metric: CounterMetricFamily | GaugeMetricFamily = kind(name, text, labels=labels.split(","))
    for key, number in sorted(numbers.items()):
        if number is not None:
            values = key if isinstance(key, tuple) else (key,)
            metric.add_metric([str(value) for value in values], number)
    return metric


counter = partial(_labelled, CounterMetricFamily)
gauge = partial(_labelled, GaugeMetricFamily)
