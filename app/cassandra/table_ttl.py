"""How long a table keeps its rows: noticed when somebody changes it while a worker writes to it."""

import logging
from typing import Any

from cassandra.cluster import Session

from app.durations import format_duration
from app.settings import Settings

logger = logging.getLogger(__name__)


class TtlCheck:
    """Compares a table's default TTL with the setting whenever the driver has read the table's definition anew.

    Args:
        session: the driver is told of every change of the schema.
        settings: the deployment's.
        table: whose rows have no TTL of their own.
    """

    def __init__(self, session: Session, settings: Settings, table: str) -> None:
        self._session = session
        self._settings = settings
        self._table = table
        self._seen: Any = None

    def look(self) -> None:
        """Warn if the table has changed and keeps rows for another time than the setting; cheap."""
        keyspace = self._session.cluster.metadata.keyspaces.get(self._settings.keyspace)
        table = None if keyspace is None else keyspace.tables.get(self._table)
        if table is None or table is self._seen:
            return
        self._seen = table
        seconds = int(table.options.get("default_time_to_live") or 0)
        if seconds != self._settings.ttl_seconds:
            logger.warning(
                "table %s.%s keeps new rows %s, but FRAUDSTREAM_PREDICTION_TTL is %s: run `fraudstream migrate`, or "
                "change the setting; until then a restart of this worker will fail",
                self._settings.keyspace, self._table,
                format_duration(seconds * 1000) if seconds else "forever", self._settings.prediction_ttl,
            )  # fmt: skip
