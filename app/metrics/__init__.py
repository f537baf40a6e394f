"""What a worker tells about itself: to Prometheus, to the index page, to health checks.

Counts are read from the running pipelines when somebody asks, so they cost nothing in between. They count
computations since this process started: what is computed again after a rebalance counts again. The exact
account of every record is `fraudstream verify`.

| module        | what                                                              |
|---------------|-------------------------------------------------------------------|
| recorders.py  | what the sink fills: latency from append to row, whether it waits |
| reading.py    | one moment of a worker: pipelines, lag, state on disk             |
| prometheus.py | every metric once: name, labels, help                             |
"""

from app.metrics.recorders import Latency, SinkStatus, append_to_row, sink_status

__all__ = ["Latency", "SinkStatus", "append_to_row", "sink_status"]
