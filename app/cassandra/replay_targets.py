"""Shadows: the topics and the keyspace that a replay writes to, beside the live ones; made, found, removed.

A shadow's keyspace has a table `replay` with one row. It tells what was replayed, and that the keyspace may be
dropped: nothing is removed that is not marked so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from cassandra.cluster import Session

from app.cassandra.migration_files import load_migrations
from app.cassandra.schema_migration import migrate
from app.cassandra.session import SCHEMA, explained
from app.errors import NotFoundError, UsageError
from app.kafka.clients import admin
from app.kafka.topic_admin import ensure_topics
from app.settings import Settings
from app.topics import Topics, TopicSpec

_TABLE = (
    "CREATE TABLE IF NOT EXISTS {}.replay (name text PRIMARY KEY, told text) "
    "WITH comment = '{}what was replayed into this keyspace, JSON'"
)
#: In front of the comment: whose replay it is. Everybody may read comments.
_OF = re.compile(r"of (\w+): ")


@dataclass(frozen=True)
class ReplayTargets:
    """Where a replay writes.

    Attributes:
        name: the group's.
        settings: those under which it writes: topic prefix and keyspace are its own.
    """

    name: str
    settings: Settings

    @property
    def topics(self) -> tuple[TopicSpec, ...]:
        """Its topics."""
        topics = Topics(self.settings)
        return topics.predictions, topics.late_transactions

    @property
    def keyspace(self) -> str:
        """Its keyspace."""
        return self.settings.keyspace


def replayed_keyspace(comment: str) -> str | None:
    """The keyspace of the deployment that was replayed, by the comment of the table `replay`; None: it does not say."""
    found = _OF.match(comment or "")
    return found and found[1]


async def existing_topics(shadow: ReplayTargets) -> list[str]:
    """Those of its topics that are there.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    async with admin(shadow.settings) as client:
        there = set(await client.list_topics())
    return [topic.name for topic in shadow.topics if topic.name in there]


def told_of(session: Session, shadow: ReplayTargets) -> dict[str, Any] | None:
    """What is written down of a shadow; None where there is no such keyspace.

    Raises:
        UsageError: there is a keyspace of that name, and it is no shadow.
        UnavailableError: Cassandra does not answer.
    """
    with explained(shadow.settings):
        tables = {
            row["table_name"]
            for row in session.execute(
                "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
                (shadow.keyspace,),
            )
        }
        if not tables:
            return None
        row = None
        if "replay" in tables:
            row = session.execute(f"SELECT told FROM {shadow.keyspace}.replay").one()  # noqa: S608
        if row is None:
            msg = f"keyspace {shadow.keyspace} exists and was not created by a replay: choose another --group"
            raise UsageError(msg)
        told: dict[str, Any] = orjson.loads(row["told"])
        return told


async def make(session: Session, shadow: ReplayTargets, told: Mapping[str, Any]) -> None:
    """Make its keyspace, tables and topics; the marker first, so that what is begun can be removed.

    Raises:
        UnavailableError, SchemaError: a server does not answer or refuses.
    """
    settings = shadow.settings
    with explained(settings):
        for statement in load_migrations()[0].statements(settings):
            session.execute(statement, execution_profile=SCHEMA)
        of = f"of {settings.keyspace.removesuffix(f'_{shadow.name}')}: "
        session.execute(_TABLE.format(settings.keyspace, of), execution_profile=SCHEMA)
        tell(session, shadow, told)
        migrate(session, settings, say=lambda _: None)
    await ensure_topics(settings, shadow.topics)


def tell(session: Session, shadow: ReplayTargets, told: Mapping[str, Any]) -> None:
    """Write down what was replayed into it."""
    with explained(shadow.settings):
        session.execute(
            f"INSERT INTO {shadow.keyspace}.replay (name, told) VALUES (%s, %s)",  # noqa: S608
            (shadow.name, orjson.dumps(told).decode()),
        )


async def remove(session: Session, shadow: ReplayTargets) -> list[str]:
    """Delete its topics and its keyspace; returns what there was.

    Raises:
        NotFoundError: there is nothing.
        UsageError: the keyspace is no shadow.
        UnavailableError: a server does not answer.
    """
    told = told_of(session, shadow)
    if told is None:
        msg = f"there is no replay {shadow.name}: keyspace {shadow.keyspace} does not exist"
        raise NotFoundError(msg)
    topics = await existing_topics(shadow)
    if topics:
        async with admin(shadow.settings) as client:
            await client.delete_topics(topics)
    with explained(shadow.settings):
        # last: while the marker is there, a removal that was interrupted can be repeated
        session.execute(f"DROP KEYSPACE IF EXISTS {shadow.keyspace}", execution_profile=SCHEMA)
    return [*topics, f"keyspace {shadow.keyspace}"]
