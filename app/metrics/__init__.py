"""What a worker tells about itself: to Prometheus, to the index page, to health checks.

Counts are read from the running pipelines when somebody asks, so they cost nothing in between. They count
computations since this process started: what is computed again after a rebalance counts again. The exact
account of every record is `fraudstream verify`.
"""

from app.metrics.counters import SinkStatus, append_to_row, sink_status
from app.metrics.latency_histogram import LatencyHistogram

__all__ = ["LatencyHistogram", "SinkStatus", "append_to_row", "sink_status"]
