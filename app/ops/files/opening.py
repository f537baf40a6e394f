"""Opens a file in the format that its name says, with the columns that its recipe makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UsageError
from app.ops.files.columns import ColumnPlan, FileOptions, make_plan
from app.ops.files.csv_rows import CsvSource
from app.ops.files.derived_columns import apply_recipe
from app.ops.files.file_source import EmptySource, Source
from app.ops.files.json_lines import JsonSource
from app.ops.files.parquet_rows import ParquetSource
from app.ops.files.suffixes import file_format

_KINDS: dict[str, type[Source]] = {
    ".csv": CsvSource,
    ".jsonl": JsonSource,
    ".parquet": ParquetSource,
}


def open_source(path: Path) -> Source:
    """Open a file by its suffix.

    Raises:
        UsageError: there is no such file, it cannot be read, or its suffix is unknown.
    """
    suffix = file_format(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, without a word
            msg = f"cannot read {path}: it is not a file"
            raise UsageError(msg)
        file = path.open("rb")
    except (OSError, ValueError) as error:
        msg = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(msg) from error
    try:
        kind = _KINDS[suffix.removesuffix(".gz")] if path.stat().st_size else EmptySource
        return kind(path, file)
    except BaseException:
        file.close()
        raise


@contextmanager
def open_rows(path: Path, options: FileOptions) -> Iterator[tuple[Source, ColumnPlan]]:
    """A file of transactions, and what becomes of its columns.

    Raises:
        UsageError: the file or a column does not exist, or the options do not fit the file.
    """
    with open_source(path) as source:
        if options.recipe:
            apply_recipe(source, options.recipe, options.origin_ms)
        yield source, make_plan(path, source.columns, options)
