"""The numbered migrations of cql/: found, checked, filled in and cut into statements. No Cassandra here."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Template

from app.errors import SchemaError
from app.settings import Settings

_FILE_NAME = re.compile(r"(\d{3})_([a-z0-9_]+)\.cql")
#: A quoted text (with '' inside), a comment, a semicolon, or anything else up to one of these.
_PIECE = re.compile(r"'(?:[^']|'')*'|--[^\n]*|//[^\n]*|/\*.*?\*/|;|[^';/-]+|[/-]", re.DOTALL)


@dataclass(frozen=True)
class Migration:
    """One file of cql/.

    Attributes:
        number: its place in the order, from 1.
        name: what the file name says after the number.
        text: the template.
    """

    number: int
    name: str
    text: str

    @property
    def title(self) -> str:
        """How it is called in messages: 002_predictions."""
        return f"{self.number:03d}_{self.name}"

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of what Cassandra is told: comments and white space may change, statements may not."""
        told = "\n".join(" ".join(statement.split()) for statement in split_statements(self.text))
        return hashlib.sha256(told.encode()).hexdigest()

    def statements(self, settings: Settings) -> list[str]:
        """Its statements, filled in."""
        names = {"keyspace": settings.keyspace, "replication": replication(settings)}
        return split_statements(Template(self.text).substitute(names))


def load_migrations() -> list[Migration]:
    """All migrations in order.

    Raises:
        SchemaError: a file name is malformed, or a number is missing or taken twice.
    """
    found = []
    for entry in files("cql").iterdir():
        if entry.name.endswith(".cql"):
            match = _FILE_NAME.fullmatch(entry.name)
            if match is None:
                msg = f"cql/{entry.name} is not named like 004_what_it_does.cql"
                raise SchemaError(msg)
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        msg = f"cql/ must be numbered 001, 002, ... without gaps: {[m.title for m in found]}"
        raise SchemaError(msg)
    return found


def split_statements(text: str) -> list[str]:
    """The statements of a CQL text, without comments and final semicolons."""
    statements, current = [], ""
    for piece in _PIECE.findall(text):
        if piece == ";":
            statements.append(current.strip())
            current = ""
        elif piece.startswith(("--", "//", "/*")):
            current += " "
        else:
            current += piece
    statements.append(current.strip())
    return [statement for statement in statements if statement]


def replication(settings: Settings) -> str:
    """The keyspace's replication: by datacenter when one is named, else simple."""
    replicas = settings.cassandra_replication
    if settings.cassandra_datacenter is None:
        return f"{{'class': 'SimpleStrategy', 'replication_factor': {replicas}}}"
    datacenter = settings.cassandra_datacenter.replace("'", "''")
    return f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replicas}}}"


@dataclass(frozen=True)
class TableOptions:
    """What of the predictions table follows the settings, and is altered when they change.

    Attributes:
        ttl_seconds: rows expire so long after they were written; 0: never.
        compaction: the strategy and its options, as Cassandra stores them.
    """

    ttl_seconds: int
    compaction: dict[str, str]

    def statement(self, keyspace: str) -> str:
        """The statement that brings the table there."""
        compaction = ", ".join(f"'{name}': '{value}'" for name, value in self.compaction.items())
        return (
            f"ALTER TABLE {keyspace}.predictions WITH default_time_to_live = {self.ttl_seconds} "
            f"AND compaction = {{{compaction}}}"
        )


def table_options(settings: Settings) -> TableOptions:
    """The options that the settings ask for.

    Rows that live for ever are compacted by the unified strategy. Rows that expire go into files by time of
    writing, some thirty for a lifetime, so that a file expires as a whole and is deleted unread.
    """
    seconds = settings.ttl_seconds
    if seconds == 0:
        return TableOptions(0, {"class": "UnifiedCompactionStrategy"})
    hours = max(1, seconds // 3600 // 30)
    unit, size = ("DAYS", round(hours / 24)) if hours >= 24 else ("HOURS", hours)
    window = {"compaction_window_unit": unit, "compaction_window_size": str(size)}
    return TableOptions(seconds, {"class": "TimeWindowCompactionStrategy", **window})
