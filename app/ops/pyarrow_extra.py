"""pyarrow, which reads and writes Parquet, is optional: it is larger than all the rest."""

from typing import Any

from app.errors import UsageError


def require_pyarrow() -> Any:
    """The `pyarrow` module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        msg = "Parquet files need pyarrow: pip install pyarrow (the extra `parquet`)"
        raise UsageError(msg) from None
    return pyarrow
