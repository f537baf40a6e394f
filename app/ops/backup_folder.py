"""`fraudstream backup` and `restore`: what only Cassandra has, as a folder of files.

```text
DIR/backup.json           release, keyspace, time; rows and SHA-256 of each file
DIR/TABLE.msgpack.gz      see app/cassandra/backup_tables.py
```
"""

import hashlib
import importlib.metadata
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from app.cassandra.backup_tables import (
    FROM_TOPICS,
    NOTHING_ERASED,
    ONLY_HERE,
    restore_table,
    save_table,
)
from app.cassandra.erase_rows import read_erasures
from app.cassandra.erased_since_backup import ErasedRows
from app.cassandra.schema_check import check_schema
from app.cassandra.session import connected
from app.display import iso
from app.errors import NotFoundError, UsageError
from app.file_writing import explained, require_writable, write_whole
from app.ops.verification.topic_log import Progress
from app.settings import Settings

_MANIFEST = "backup.json"
_SUFFIX = ".msgpack.gz"
_FORMAT = 1
_LAST, _ERASURES = "model_artifacts", "erasures"
#: What an empty file system has in it.
_NOT_OURS = {"lost+found"}
_ELSEWHERE = "another FOLDER"


class SavedTable(msgspec.Struct):
    """One file.

    Attributes:
        rows: how many.
        sha256: of the file.
        erased: how many were not restored, because their card was erased since.
    """

    rows: int
    sha256: str
    erased: int = 0


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
    """Save tables into a new folder. It is a backup once it has its manifest, which is written last.

    Args:
        settings: the deployment's.
        folder: must not exist, or be empty; it may be a mount point.
        rows: also tables whose rows topics have, as long as they keep them.
        progress: told how far it has come.

    Raises:
        UsageError: the folder has something in it.
        UnavailableError: Cassandra does not answer, or the folder cannot be written.
        SchemaError: tables are missing.
    """
    if folder.exists() and (
        not folder.is_dir() or {one.name for one in folder.iterdir()} - _NOT_OURS
    ):
        msg = f"{folder} exists and is not an empty folder: choose a new one"
        raise UsageError(msg)
    is_new = not folder.exists()
    require_writable(folder, _ELSEWHERE)
    if is_new:
        folder.chmod(0o700)
    tables = (*ONLY_HERE, *(FROM_TOPICS if rows else ()))
    release = importlib.metadata.version("fraudstream")
    saved = Backup(_FORMAT, release, settings.keyspace, time.time())
    written: list[Path] = []
    try:
        with connected(settings) as session, explained(folder, _ELSEWHERE):
            check_schema(session, settings)
            # artifacts last: each model that is saved has its artifact, also one that is registered meanwhile
            for number, table in enumerate(sorted(tables, key=lambda one: one == _LAST), 1):
                file = folder / f"{table}{_SUFFIX}"
                written.append(file)
                file.touch(mode=0o600)  # it has names of people and ids of cards
                count = save_table(session, settings, table, file)
                saved.tables[table] = SavedTable(count, _sha256(file))
                progress("tables", number, len(tables))
            manifest = msgspec.json.format(msgspec.json.encode(saved)).decode()
            write_whole(folder / _MANIFEST, manifest)
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    return saved


def restore(
    settings: Settings, folder: Path, *, other_keyspace: bool = False, progress: Progress
) -> Backup:
    """Write the rows of a backup into the keyspace; what is newer there stays, and what was erased stays erased.

    Args:
        settings: the deployment's.
        folder: as `backup` wrote it.
        other_keyspace: the backup may be of a keyspace of another name.
        progress: told how far it has come.

    Returns:
        The backup, with the numbers of rows that were written: those that are expired by now are not.

    Raises:
        NotFoundError: there is no backup.
        UsageError: it is of another keyspace, a file is damaged, or of a format that this release does not know.
            Nothing is written then.
        UnavailableError: Cassandra does not answer.
        SchemaError: tables or columns are missing.
    """
    saved = _read(folder)
    if saved.keyspace != settings.keyspace and not other_keyspace:
        msg = (
            f"{folder} is a backup of the keyspace {saved.keyspace}, not of {settings.keyspace}: its rows would be "
            f"mixed with those of another deployment; set FRAUDSTREAM_KEYSPACE={saved.keyspace}, or add "
            "--other-keyspace"
        )
        raise UsageError(msg)
    for table, known in saved.tables.items():
        file = folder / f"{table}{_SUFFIX}"
        if (
            table not in (*ONLY_HERE, *FROM_TOPICS)
            or not file.exists()
            or _sha256(file) != known.sha256
        ):
            msg = f"{file} is missing or does not match {_MANIFEST}: restore from another backup"
            raise UsageError(msg)
    with connected(settings) as session:
        check_schema(session, settings)
        # what was erased first, then alerts, then what hangs on them
        order = (_ERASURES, *FROM_TOPICS, *(one for one in ONLY_HERE if one != _ERASURES))
        tables = [table for table in order if table in saved.tables]
        erased = NOTHING_ERASED
        for number, table in enumerate(tables, 1):
            if table != _ERASURES and erased is NOTHING_ERASED:
                erased = ErasedRows(read_erasures(session, settings))
            file, told = folder / f"{table}{_SUFFIX}", saved.tables[table]
            told.rows, told.erased = restore_table(session, settings, table, file, saved.at, erased)
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
