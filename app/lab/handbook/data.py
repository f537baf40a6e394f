"""The transactions of the Fraud Detection Handbook (Le Borgne et al. 2022), where somebody has them.

They are not part of this project: a CSV named by HANDBOOK_TRANSACTIONS, or
`shared/handbook/transactions.csv.gz` beside the checkout.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from joblib import cpu_count

import app as package
from app.errors import NotFoundError, UsageError
from app.ops.files.amount_rounding import Rounding
from app.ops.files.columns import FileOptions
from app.ops.files.dataset_recipes import RECIPES
from app.ops.files.transaction_file import TransactionPass, open_reading
from app.ops.train_from_files import LabelledTransactions, read_labelled
from app.settings import Settings

VARIABLE = "HANDBOOK_TRANSACTIONS"
_RECIPE = RECIPES["handbook"]
_BESIDE = Path("shared") / "handbook" / "transactions.csv.gz"


def locate() -> Path | None:
    """The file that HANDBOOK_TRANSACTIONS names, else the one beside the checkout; None without either."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    beside = Path(package.__file__).parents[2] / _BESIDE
    return beside if beside.is_file() else None


def require(given: Path | None) -> Path:
    """The file that is given, or found by `locate`.

    Raises:
        NotFoundError: there is none.
    """
    path = given or locate()
    if path is None:
        msg = (
            f"no transactions of the Fraud Detection Handbook: neither {VARIABLE} nor {_BESIDE} beside "
            "the checkout names a file"
        )
        raise NotFoundError(msg)
    if not path.is_file():
        msg = f"no transactions of the Fraud Detection Handbook: there is no file {path}"
        raise NotFoundError(msg)
    return path


def read_span(
    path: Path,
    settings: Settings,
    begin_ms: int,
    end_ms: int,
    rows: int | None,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, LabelledTransactions]:
    """The transactions of a period.

    Args:
        path: the file.
        settings: currency and its digits.
        begin_ms: its first moment, epoch milliseconds.
        end_ms: the first moment outside.
        rows: the newest so many of the period; None: all.
        progress: told how many bytes of the file are read.

    Returns:
        How many transactions of the file stand before them, and they, oldest first.

    Raises:
        UsageError: the file is malformed or not in order of time, or holds nothing of the period.
    """
    everything = read_labelled(
        path,
        settings,
        _options(settings),
        progress=progress,
        cores=cpu_count(),
    )
    times = everything.event_time_ms
    if np.any(np.diff(times) < 0):
        msg = f"{path} is not in order of {_RECIPE.mapping['event_time']}"
        raise UsageError(msg)
    begin, end = np.searchsorted(times, (begin_ms, end_ms)).tolist()
    if rows is not None:
        begin = max(begin, end - rows)
    if begin == end:
        msg = f"{path} contains no transactions of the period"
        raise UsageError(msg)
    return begin, everything.take(slice(begin, end))


@contextmanager
def open_span(path: Path, settings: Settings, skip: int, rows: int) -> Iterator[TransactionPass]:
    """The same transactions once more, as `fraudstream produce` reads them.

    Args:
        path: the file.
        settings: the deployment.
        skip: transactions of the file that stand before them.
        rows: how many they are.
    """
    with open_reading(
        path, _options(settings, only_known=True), skip=skip, limit=rows, label=_RECIPE.label
    ) as reading:
        yield reading


def _options(settings: Settings, *, only_known: bool = False) -> FileOptions:
    rounding = Rounding(settings.currency, settings.minor_unit_digits)
    return FileOptions(only_known=only_known, recipe=_RECIPE).with_recipe(rounding)
