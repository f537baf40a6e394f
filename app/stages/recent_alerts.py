"""The newest alerts that a worker has seen, for pages."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson

from app.scoring_deployment import is_anothers
from app.wire.input_records import SourceRecord

#: Number of alerts that a worker keeps.
_REMEMBERED = 50


class RecentAlerts:
    """The newest alerts since this worker started, as bytes that are decoded only when a page shows them.

    Args:
        deployment: the deployment that raised the alerts.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._raw: deque[bytes] = deque(maxlen=_REMEMBERED)

    def heard(self, _partition: int, records: Sequence[SourceRecord], _computed: Any) -> None:
        """Records of the topic; see `app.stages.score_callers.ObservedHandler`."""
        self._raw.extend(record.value for record in records[-_REMEMBERED:])

    def newest(self) -> list[dict[str, Any]]:
        """Each alert once, newest first."""
        found: dict[str, dict[str, Any]] = {}
        for value in self._raw:
            alert = orjson.loads(value)
            if not is_anothers(alert, self._deployment):
                found[alert["key"]] = alert
        return sorted(found.values(), key=lambda alert: -(alert["received_at"] or 0))
