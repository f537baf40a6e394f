"""`fraudstream backup` and `restore`: what only Cassandra has, as a folder of files.

```text
DIR/backup.json           release, keyspace, time; rows and SHA-256 of each file
DIR/TABLE.msgpack.gz      see app/cassandra/backup_tables.py
```
"""

import hashlib
import importlib.metadata
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from app.cassandra.backup_tables import FROM_TOPICS, ONLY_HERE, restore_table, save_table
from app.cassandra.schema_check import check_schema
from app.cassandra.session import connected
from app.display import iso
from app.errors import NotFoundError, UsageError
from app.file_writing import explained
from app.ops.verification.topic_log import Progress
from app.settings import Settings

_MANIFEST = "backup.json"
_SUFFIX = ".msgpack.gz"
_FORMAT = 1
_LAST = "model_artifacts"


class SavedTable(msgspec.Struct):
    """One file.

    Attributes:
        rows: how many.
        sha256: of the file.
    """

    rows: int
    sha256: str


class Backup(msgspec.Struct):
    """What a backup says of itself.

    Attributes:
        format: of its files.
        release: that wrote it.
        keyspace: that it is of.
        at: when it was begun, epoch seconds.
        tables: by name.
    """

    format: int
    release: str
    keyspace: str
    at: float
    tables: dict[str, SavedTable] = {}

    @property
    def when(self) -> str:
        """`at` for people."""
        return iso(int(self.at * 1000))


def backup(settings: Settings, folder: Path, *, rows: bool, progress: Progress) -> Backup:
    """Save tables into a new folder, all or nothing.

    Args:
        settings: the deployment's.
        folder: must not exist, or be empty.
        rows: also tables whose rows topics have, as long as they keep them.
        progress: told how far it has come.

    Raises:
        UsageError: the folder has something in it.
        UnavailableError: Cassandra does not answer, or the folder cannot be written.
        SchemaError: tables are missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} is there already, and not an empty folder: give a new one"
        raise UsageError(msg)
    tables = (*ONLY_HERE, *(FROM_TOPICS if rows else ()))
    release = importlib.metadata.version("fraudstream")
    saved = Backup(_FORMAT, release, settings.keyspace, time.time())
    with connected(settings) as session, explained(folder, "another FOLDER"):
        check_schema(session, settings)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            # artifacts last: each model that is saved has its artifact, also one that is registered meanwhile
            for number, table in enumerate(sorted(tables, key=lambda one: one == _LAST), 1):
                file = draft / f"{table}{_SUFFIX}"
                count = save_table(session, settings, table, file)
                saved.tables[table] = SavedTable(count, _sha256(file))
                progress("tables", number, len(tables))
            (draft / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(saved)))
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return saved


def restore(settings: Settings, folder: Path, *, progress: Progress) -> Backup:
    """Write the rows of a backup into the keyspace; what is newer there stays.

    Args:
        settings: the deployment's; its keyspace may have another name than the saved one.
        folder: as `backup` wrote it.
        progress: told how far it has come.

    Returns:
        The backup, with the numbers of rows that were written: those that are expired by now are not.

    Raises:
        NotFoundError: there is no backup.
        UsageError: a file is damaged, or of a format that this release does not know. Nothing is written then.
        UnavailableError: Cassandra does not answer.
        SchemaError: tables or columns are missing.
    """
    saved = _read(folder)
    for table, known in saved.tables.items():
        file = folder / f"{table}{_SUFFIX}"
        if (
            table not in (*ONLY_HERE, *FROM_TOPICS)
            or not file.exists()
            or _sha256(file) != known.sha256
        ):
            msg = f"{file} is missing or not what {_MANIFEST} says: restore from another backup"
            raise UsageError(msg)
    with connected(settings) as session:
        check_schema(session, settings)
        tables = [table for table in (*ONLY_HERE, *FROM_TOPICS) if table in saved.tables]
        for number, table in enumerate(tables, 1):
            file = folder / f"{table}{_SUFFIX}"
            saved.tables[table].rows = restore_table(session, settings, table, file, saved.at)
            progress("tables", number, len(tables))
    return saved


def _read(folder: Path) -> Backup:
    file = folder / _MANIFEST
    if not file.exists():
        msg = f"there is no backup in {folder}: it lacks {_MANIFEST}"
        raise NotFoundError(msg)
    try:
        saved = msgspec.json.decode(file.read_bytes(), type=Backup)
    except msgspec.MsgspecError as error:
        msg = f"{file} is damaged ({error}): restore from another backup"
        raise UsageError(msg) from None
    if saved.format != _FORMAT:
        msg = f"{file} has format {saved.format}, this release reads {_FORMAT}: use the release {saved.release}"
        raise UsageError(msg)
    return saved


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
