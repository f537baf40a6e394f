"""Columns that a recipe makes of others: ids by the number of the row, joined columns, times from an origin."""

import gzip
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from app.errors import UsageError
from app.ops.files.dataset_recipes import Recipe, RelativeTimes
from app.ops.files.file_ids import is_missing
from app.ops.files.file_source import UNREADABLE, MalformedRecordError, Row, Source
from app.ops.files.json_lines import values_of

#: Bytes of a file's beginning that tell it from another file.
_DIGESTED = 4_096
_WHOLE_FLOAT = re.compile(r"-?\d+\.0+", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def apply_recipe(source: Source, recipe: Recipe, origin_ms: int | None = None) -> None:
    """Let a source give the columns that a recipe makes.

    Args:
        source: a file that nobody has read from.
        recipe: what to make.
        origin_ms: the moment from which its times count, epoch milliseconds; None: the recipe's.

    Raises:
        UsageError: the file lacks a column that the recipe needs.
    """
    missing = [name for name in sorted(recipe.required) if name not in source.columns]
    if missing and source.columns:
        msg = (
            f"--recipe {recipe.name}: {source.path} has no column {', '.join(missing)}; "
            f"its columns are {', '.join(filter(None, source.columns))}"
        )
        raise UsageError(msg)
    if recipe.clock and origin_ms is None:
        origin_ms = origin_of(recipe.clock)
    if recipe.fields or recipe.sign:
        prefix = f"{recipe.name}-{_digest(source.path)}-" if recipe.numbered else ""
        json = source.gives_json
        source.derive(recipe.fields, _Maker(recipe, prefix, origin_ms or 0, json=json))


def origin_of(clock: RelativeTimes) -> int:
    """A clock's own origin, epoch milliseconds."""
    return (datetime.fromisoformat(clock.origin) - _EPOCH) // _MILLISECOND


class _Maker:
    """Adds the columns to a row."""

    def __init__(self, recipe: Recipe, prefix: str, origin_ms: int, *, json: bool) -> None:
        self._recipe = recipe
        self._prefix = prefix
        self._origin_ms = origin_ms
        self._values: Callable[[Any], Row] = (lambda row: values_of(row[1])) if json else dict
        self._parts = (*recipe.consumed, "transaction_id")
        self._amount = recipe.mapping["amount"] if recipe.sign else None

    def __call__(self, row: Any, number: int) -> Row:
        recipe, values = self._recipe, self._values(row)
        if recipe.numbered:
            values["transaction_id"] = f"{self._prefix}{number}"
        if recipe.made:
            parts: defaultdict[str, str] = defaultdict(str)
            parts |= {name: _part(values.get(name)) for name in self._parts}
            for field, template in recipe.made.items():
                text = template.format_map(parts)
                # a card of nothing but separators is none
                values[field] = text if any(map(str.isalnum, text)) else None
        if recipe.clock:
            values["event_time"] = self._moment(recipe.clock, values.get(recipe.clock.column))
        if self._amount:
            amount = values.get(self._amount)
            if isinstance(amount, str):
                values[self._amount] = amount.replace(recipe.sign, "", 1)
        return values

    def _moment(self, clock: RelativeTimes, value: Any) -> str | None:
        text = _part(value)
        if not text:
            return None
        try:
            after_ms = (Decimal(text) - clock.first) * clock.unit_ms
            moment = _EPOCH + timedelta(milliseconds=self._origin_ms + int(after_ms))
        except (InvalidOperation, ValueError, OverflowError):
            fault = f"{text[:40]!r} is not a number of time steps"
            raise MalformedRecordError(clock.column, fault) from None
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _part(value: Any) -> str:
    """A value as part of a joined one; whole floats as integers, as they were before a column had gaps."""
    if is_missing(value):
        return ""
    text = str(value).strip()
    return text.partition(".")[0] if _WHOLE_FLOAT.fullmatch(text) else text


def _digest(path: Path) -> str:
    """What tells a file from others: made of its content, so that its name and place may change."""
    try:
        with path.open("rb") as file:
            packed = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
            content = packed.read(_DIGESTED)
            if (
                path.suffix == ".parquet"
            ):  # columns at its beginning may be the same; statistics are at its end
                file.seek(max(0, path.stat().st_size - _DIGESTED))
                content += file.read()
    except UNREADABLE as error:
        msg = f"{path} cannot be read: {error}"
        raise UsageError(msg) from error
    return hashlib.sha256(content).hexdigest()[:8]
