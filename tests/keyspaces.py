"""Keyspaces that tests use in turn: to make one and to drop it costs Cassandra four seconds of processor time.

That was a third of what all tests took. A keyspace goes on to the next test if its tables are as they were made;
a test that looks at migrations takes one of its own (the marker `own_keyspace`).
"""

import uuid
from typing import Any

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from app.cassandra.schema_migration import migrate
from app.cassandra.session import connect, disconnect
from app.settings import Settings

#: The tables in which `migrate` keeps its own books.
_BOOKS = ("schema_migrations", "schema_lock")
_SECONDS = 120.0


class Keyspaces:
    """The keyspaces of one Cassandra.

    Args:
        settings: how to connect; what tables are made with.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._free: list[str] = []
        self._shape = ""

    def take(self) -> str:
        """The name of one whose tables are there, and empty."""
        if self._free:
            return self._free.pop()
        settings = self._settings.model_copy(update={"keyspace": f"t{uuid.uuid4().hex[:10]}"})
        migrate(self._connected(), settings)
        self._shape = self._described(settings.keyspace)
        return settings.keyspace

    def give_back(self, name: str) -> None:
        """Empty one for the next test, or drop it if it was changed; and drop those of its replays."""
        session = self._connected()
        try:
            for row in self._run("SELECT keyspace_name FROM system_schema.keyspaces"):
                if (one := row["keyspace_name"]).startswith(f"{name}_"):
                    self.drop(one)
            if self._described(name) != self._shape:
                self.drop(name)
                return
            for table in session.cluster.metadata.keyspaces[name].tables:
                if table not in _BOOKS and self._run(f"SELECT * FROM {name}.{table} LIMIT 1").one():  # noqa: S608
                    self._run(f"TRUNCATE {name}.{table}")
        except Exception:
            self.close()  # the test may have stopped the server: its keyspace is not used again
            raise
        self._free.append(name)

    def drop(self, name: str) -> None:
        """Delete one with all that is in it."""
        self._run(f"DROP KEYSPACE IF EXISTS {name}")

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            disconnect(self._session)
            self._session = None

    def _connected(self) -> Session:
        if self._session is None:
            self._session = connect(self._settings)
        return self._session

    def _run(self, statement: str) -> Any:
        # a long timeout: dropping flushes and deletes every table
        return self._connected().execute(SimpleStatement(statement), timeout=_SECONDS)

    def _described(self, name: str) -> str:
        cluster = self._connected().cluster
        cluster.refresh_keyspace_metadata(name)
        found = cluster.metadata.keyspaces.get(name)
        if found is None:
            return "dropped"
        return "\n".join(sorted(found.export_as_string().replace(name, "").splitlines()))
