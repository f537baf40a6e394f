"""Which files are read and written: the suffix decides the format."""

from pathlib import Path

from app.errors import UsageError

#: Label columns. They are for training; `fraudstream produce` never sends them.
LABEL_FIELDS = ("is_fraud", "fraud_kind")
SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
#: JSON lines to standard output.
STDOUT = Path("-")


def file_format(path: Path) -> str:
    """The suffix that decides the format, one of `SUFFIXES`; `.jsonl` for standard output.

    Raises:
        UsageError: the name has another suffix.
    """
    if path == STDOUT:
        return ".jsonl"
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return suffix
    msg = f"{path} must end in {', '.join(SUFFIXES)}: the suffix selects the format"
    raise UsageError(msg)
