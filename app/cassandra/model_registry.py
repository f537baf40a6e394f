"""The registry of models in Cassandra: every worker reaches it, and nothing in a local folder replaces what it says.

Artifacts are stored under the hash of all that a model scores by.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cassandra.cluster import Session

from app.cassandra.lightweight_transactions import settled
from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.session import explained
from app.errors import NotFoundError, UsageError
from app.settings import Settings
from models.artifact import MANIFEST_FILE, check_content
from models.artifact_folders import Entry
from models.manifest import HASH_DIGITS, Manifest

#: Bytes of a chunk: a server refuses mutations of half a commit-log segment, 16 MiB by default.
_CHUNK_BYTES = 512 * 1024


class RegisteredModel(NamedTuple):
    """One version in the registry.

    Attributes:
        name: the model's.
        version: its number.
        hash: `Manifest.scoring_hash`.
        sha256: of the model's file.
        bytes: of the model's file.
        registered_at: epoch milliseconds.
        registered_by: who did it.
    """

    name: str
    version: int
    hash: str
    sha256: str
    bytes: int
    registered_at: int
    registered_by: str

    @property
    def model(self) -> str:
        """Name and version, as rows and records have them."""
        return f"{self.name}@{self.version}"


def register(session: Session, settings: Settings, entry: Entry, by: str) -> bool:
    """Store an artifact and bind its name and version to it; False when that was so already.

    Raises:
        NotFoundError: the model file is missing.
        UsageError: the version is registered with another artifact, or the file is not what its manifest says.
        UnavailableError: Cassandra does not answer.
        SchemaError: the tables are missing.
    """
    folder, manifest = entry
    known = _version(session, settings, manifest.name, manifest.version)
    path = folder / manifest.file
    # what a shipped model was before it was converted is not here
    if known is None or path.exists():
        try:
            content = path.read_bytes()
        except OSError as error:
            msg = f"the model file {path} cannot be read ({error.strerror}): restore it or train again"
            raise NotFoundError(msg) from error
        check_artifact(manifest, content, manifest.scoring_hash, str(folder))
        # also one that is known: an old backup, or a lost table, may have left a version without its artifact
        if not _is_stored(session, settings, manifest.scoring_hash):
            _store(session, settings, manifest, (folder / MANIFEST_FILE).read_text(), content)
    if known is None:
        known = _bind(session, settings, manifest, len(content), by)
        if known is None:
            return True
    if known.hash != manifest.scoring_hash:
        msg = (
            f"{known.model} is registered with another artifact ({known.hash[:HASH_DIGITS]}..., by "
            f"{known.registered_by}): a version never changes; train or import it under the next one"
        )
        raise UsageError(msg)
    return False


def list_registered(session: Session, settings: Settings) -> list[RegisteredModel]:
    """Every version, sorted by name and version.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the tables are missing.
    """
    with explained(settings):
        rows = list(session.execute(_select(settings)))
    return sorted(map(_registered, rows))


def find_registered(session: Session, settings: Settings, wanted: str) -> RegisteredModel:
    """The version that a person means: `name@version`, `name` (its newest version) or a hash.

    Raises:
        NotFoundError: there is none.
        UnavailableError: Cassandra does not answer.
        SchemaError: the tables are missing.
    """
    known = list_registered(session, settings)
    name, _, version = wanted.partition("@")
    found = [one for one in known if one.name == name and version in ("", str(one.version))]
    if not found and len(wanted) >= HASH_DIGITS:
        found = [one for one in known if one.hash.startswith(wanted)]
    if not found:
        there = ", ".join(one.model for one in known) or "none"
        msg = (
            f"no model {wanted!r} is registered; there are: {there}; `fraudstream models register {wanted}` "
            "registers one from this machine"
        )
        raise NotFoundError(msg)
    return found[-1]


def keep_signed(session: Session, settings: Settings, entry: Entry, manifest: str) -> None:
    """Replace the manifest of a registered artifact by the same one with a signature, here too.

    Raises:
        UsageError: it is another model's.
        UnavailableError: Cassandra does not answer.
    """
    if Manifest.model_validate_json(manifest).scoring_hash != entry.manifest.scoring_hash:
        msg = f"this is not the manifest of {entry.model}"
        raise UsageError(msg)
    with explained(settings):
        session.execute(
            f"UPDATE {settings.keyspace}.model_artifacts SET manifest = %s WHERE hash = %s AND chunk = 0",  # noqa: S608
            (manifest, entry.manifest.scoring_hash),
        )
    (entry.folder / MANIFEST_FILE).write_text(manifest)


def check_artifact(manifest: Manifest, content: bytes, model_hash: str, where: str) -> None:
    """Refuse an artifact that is not what its hashes say.

    Raises:
        UsageError: it is not.
    """
    if manifest.scoring_hash != model_hash:
        msg = (
            f"the manifest of {where} is of another model: its hash is {manifest.model_hash}, not "
            f"{model_hash[:HASH_DIGITS]}; register the model again"
        )
        raise UsageError(msg)
    check_content(f"the model file of {where} is not the one", content, manifest)


def _store(
    session: Session, settings: Settings, manifest: Manifest, text: str, content: bytes
) -> None:
    with explained(settings):
        statement = session.prepare(
            f"INSERT INTO {settings.keyspace}.model_artifacts (hash, chunk, manifest, content) "  # noqa: S608
            "VALUES (?, ?, ?, ?)"
        )
        # the manifest comes with the last chunk: whoever finds it finds all of them
        for number, chunk in reversed(list(enumerate(_chunks(content)))):
            told = text if number == 0 else None
            session.execute(statement, (manifest.scoring_hash, number, told, chunk))


def _is_stored(session: Session, settings: Settings, model_hash: str) -> bool:
    with explained(settings):
        first = session.execute(
            f"SELECT manifest FROM {settings.keyspace}.model_artifacts WHERE hash = %s AND chunk = 0",  # noqa: S608
            (model_hash,),
        ).one()
    return first is not None and first["manifest"] is not None


def _bind(
    session: Session, settings: Settings, manifest: Manifest, size: int, by: str
) -> RegisteredModel | None:
    """Write a version down; what stands there where it is taken."""
    values = (
        manifest.name, manifest.version, manifest.scoring_hash, manifest.sha256, size, datetime.now(UTC), by,
    )  # fmt: skip
    with explained(settings):
        insert = (
            f"INSERT INTO {settings.keyspace}.models (name, version, hash, sha256, bytes, registered_at, "  # noqa: S608
            "registered_by) VALUES (%s, %s, %s, %s, %s, %s, %s) IF NOT EXISTS"
        )
        result = settled(lambda: session.execute(insert, values))
        return None if result.was_applied else _registered(result.one())


def _version(
    session: Session, settings: Settings, name: str, version: int
) -> RegisteredModel | None:
    with explained(settings):
        query = f"{_select(settings)} WHERE name = %s AND version = %s"
        row = session.execute(query, (name, version)).one()
    return None if row is None else _registered(row)


def read_artifact(session: Session, settings: Settings, model_hash: str) -> tuple[str, bytes]:
    """The manifest and the file of a model.

    Raises:
        NotFoundError: the registry has none of this hash.
        UnavailableError: Cassandra does not answer.
    """
    with explained(settings):
        rows = list(
            session.execute(
                f"SELECT manifest, content FROM {settings.keyspace}.model_artifacts WHERE hash = %s",  # noqa: S608
                (model_hash,),
            )
        )
    if not rows or rows[0]["manifest"] is None:
        msg = (
            f"the model with hash {model_hash[:HASH_DIGITS]} is not registered: transactions that it is to score "
            "wait for it; register it with `fraudstream models register`"
        )
        raise NotFoundError(msg)
    return rows[0]["manifest"], b"".join(row["content"] for row in rows)


def _select(settings: Settings) -> str:
    return f"SELECT {', '.join(RegisteredModel._fields)} FROM {settings.keyspace}.models"  # noqa: S608


def _registered(row: dict[str, Any]) -> RegisteredModel:
    values = {name: row[name] for name in RegisteredModel._fields}
    return RegisteredModel(**{**values, "registered_at": epoch_ms(row["registered_at"]) or 0})


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, max(1, len(content)), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES]
