"""The features of a deployment, compiled into one plan per stage."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from app.domain.features.calendar import calendar_of
from app.domain.features.card import HIGH_RATIO
from app.domain.features.feature import Column, Stage, window_name
from app.domain.features.feature_schema import parse_schema, part_of, windows_of
from app.domain.features.feature_sets import in_order, set_names
from app.domain.features.own_features import NOTHING, OwnCatalogue
from app.domain.features.row_queries import HELPERS, READINGS, RowQuery
from app.errors import SchemaError, SettingsError
from app.windows.last_entries import has_last
from app.windows.window_row import WindowRow

_RATIO = "amount_over_card_median"
#: Computes the columns of a stage: the row before the transaction, its event time (ms), its minor units, and the codes
#: of its own fields, where the deployment has some.
Plan = Callable[..., list[float]]


class Catalogue:
    """The features of one deployment: the union of some sets, in the order in which they are computed.

    Args:
        windows_ms: the deployment's windows, milliseconds, rising.
        minor_unit_digits: digits after the decimal point in its currency.
        timezone: where weekend and night are.
        sets: names of feature sets, or of single features.
        label_delay_ms: age from which a transaction's label counts.
        own: what the deployment adds; its features are computed beside those of the sets.

    Raises:
        SettingsError: there is no such set or feature.

    Attributes:
        windows: the deployment's windows.
        own: what the deployment adds.
        columns: every feature, in order: the card's, then the terminal's.
        names: their names.
        parts: the sets, and what decides their meaning.
        schema: `parts` as text (see feature_schema.py): in every prediction and every message on `enriched`; a model's
            manifest repeats it, or the part that it needs.
        flags: by stage, the flags that say which features may lack what was evicted.
        card_reach_ms, terminal_reach_ms: how far back they look.
        card: the card's columns of a transaction that is not in its row yet: called with the card's row,
            event time (ms) and amount (minor units), gives a list of floats.
    """

    def __init__(
        self,
        windows_ms: tuple[int, ...],
        minor_unit_digits: int,
        timezone: str,
        sets: Sequence[str] = ("basic",),
        label_delay_ms: int = 0,
        own: OwnCatalogue = NOTHING,
    ) -> None:
        self.windows = windows_ms
        self.own = own
        sets = tuple(dict.fromkeys((*sets, *own.names)))
        names = {name for each in sets for name in set_names(each, windows_ms, own)}
        self.columns = in_order(names, window_name(windows_ms[-1]), own)
        self.names = tuple(column.name for column in self.columns)
        self.parts = tuple(part_of(each, windows_ms, label_delay_ms, own) for each in sets)
        self.schema = "+".join(map(str, self.parts))
        self._of_schemas = {self.schema: self}
        self._rest = minor_unit_digits, timezone, label_delay_ms
        constants: dict[str, Any] = {
            **HELPERS,
            "unit": 10**minor_unit_digits,
            "LONGEST": windows_ms[-1],
            "DELAY": label_delay_ms,
            "calendar": calendar_of(timezone),
        }
        readings = (*READINGS, *own.readings())
        card = StagePlan("card", self.columns, constants, readings)
        terminal = StagePlan("terminal", self.columns, constants, readings)
        self._plans: dict[str, StagePlan] = {"card": card, "terminal": terminal}
        self.card: Plan = card.compute
        self._terminal: Plan = terminal.compute
        self._no_terminal = [0.0] * len(terminal.columns)
        self._ratio_at = self.names.index(_RATIO) if _RATIO in self.names else None
        self.flags = {stage: plan.flags for stage, plan in self._plans.items()}
        self.card_reach_ms, self.terminal_reach_ms = card.reach_ms, terminal.reach_ms

    def under(self, schema: str) -> "Catalogue":
        """The features that a schema names, for what was begun under other settings.

        Raises:
            SchemaError: this release, or this deployment, computes something else under that name.
        """
        found = self._of_schemas.get(schema)
        if found is None:
            found = self._of_schemas[schema] = self._made(schema)
        return found

    def _made(self, schema: str) -> "Catalogue":
        digits, timezone, delay_ms = self._rest
        try:
            parts = parse_schema(schema)
            windows = windows_of(parts) or self.windows
            names = tuple(part.name for part in parts)
            found = Catalogue(windows, digits, timezone, names, delay_ms, self.own.only(names))
        except (ValueError, SettingsError) as error:
            raise SchemaError(_not_computed(schema, str(error))) from error
        if found.schema != schema:
            raise SchemaError(_not_computed(schema, f"it computes {found.schema}"))
        return found

    def terminal(
        self, row: WindowRow | None, event_time_ms: int, minor: int, own: Sequence[int] = ()
    ) -> list[float]:
        """The terminal's columns of a transaction that is not in its row yet.

        Args:
            row: the terminal's state before it; None for a transaction without a terminal.
            event_time_ms: its event time `t`.
            minor: its amount in minor units.
            own: codes of its own fields (`OwnCatalogue.codes`).

        Returns:
            The columns of stage `terminal`, in catalogue order: zeros without a terminal.
        """
        if row is None:
            return self._no_terminal[:]
        return self._terminal(row, event_time_ms, minor, own)

    @property
    def tells_high(self) -> bool:
        """Whether transactions are flagged whose amount is high for their card."""
        return self._ratio_at is not None

    def is_high(self, card_columns: list[float]) -> bool:
        """Whether these columns of a transaction say that its amount is high for its card.

        Known only where a set has `amount_over_card_median`.
        """
        at = self._ratio_at
        return at is not None and card_columns[at] > HIGH_RATIO

    def inexact(self, stage: str, row: WindowRow, event_time_ms: int) -> list[str]:
        """A flag for each reading of which a part was evicted already (in the order of `flags`)."""
        return self._plans[stage].inexact(row, event_time_ms)


class StagePlan:
    """What one stage asks its rows, and how its columns are computed from the answers: one function.

    The function is generated, as `dataclasses` does: a call per feature would cost more than most features.

    Args:
        stage: `card` or `terminal`.
        columns: the deployment's columns; those of other stages are left out.
        constants: what the code may use beside `row`, `t`, `minor` and `own`.
        readings: what can be asked.

    Attributes:
        columns: the stage's.
        code: source of the function, to look at.
        compute: the function.
        flags, reach_ms: see `Catalogue`.
    """

    def __init__(
        self,
        stage: Stage,
        columns: Sequence[Column],
        constants: dict[str, Any],
        readings: Sequence[RowQuery] = READINGS,
    ) -> None:
        self.columns = tuple(column for column in columns if column.stage == stage)
        values = [_value(column) for column in self.columns]
        known = {**constants}
        lines: list[str] = []
        spans: dict[str, set[tuple[int, str, int, int]]] = {}
        wanted = set(re.findall(r"[A-Za-z_]\w*", " ".join(values)))
        lengths = {window_name(c.window_ms): c.window_ms for c in self.columns if c.window_ms}
        for place, reading in enumerate(readings):
            if reading.stage != stage:
                continue
            windows = _windows(reading, wanted, lengths)
            if reading.windowed:
                known[f"WINDOWS_{place}"] = tuple(windows.values())
                needed = bool(windows)
            else:
                needed = not wanted.isdisjoint(reading.names)
            if not needed:
                continue
            lines += _ask(reading, place, windows)
            delay = constants["DELAY"] if reading.delayed else 0
            for window, length in windows.items() or [("", 0)]:
                if reading.flag:
                    flag, reach = reading.flag.format(w=window), reading.reach_ms + length
                    spans.setdefault(reading.flag, set()).add((reach, flag, reading.entries, delay))
        #: how far back it reaches, flag, entries, how far before t it ends; two readings may share a flag
        self._spans = [span for each in spans.values() for span in sorted(each)]
        self.flags = tuple(flag for _, flag, _, _ in self._spans)
        self.reach_ms = max((reach + delay for reach, _, _, delay in self._spans), default=0)
        body = "".join(f"    {line}\n" for line in lines)
        self.code = f"def compute(row, t, minor, own=()):\n{body}    return [{', '.join(values)}]\n"
        exec(compile(self.code, f"<the {stage}'s features>", "exec"), known)  # noqa: S102 -- our own text
        self.compute: Plan = known["compute"]

    def inexact(self, row: WindowRow, event_time_ms: int) -> list[str]:
        """The flags of what was evicted already."""
        floor = row.floor_ms
        if event_time_ms - self.reach_ms >= floor:
            return []
        flags = []
        for reach, flag, entries, delay in self._spans:
            until = event_time_ms - delay
            if until - reach < floor and not (
                entries and has_last(row, until - reach, until, entries)
            ):
                flags.append(flag)
        return flags


def _not_computed(schema: str, why: str) -> str:
    return (
        f"a transaction was begun with the features {schema}, which this worker does not compute: {why}; let the "
        "release and settings that began it (FRAUDSTREAM_FEATURES, FRAUDSTREAM_LABEL_DELAY) finish `enriched`"
    )


def _value(column: Column) -> str:
    window = "" if column.window_ms is None else window_name(column.window_ms)
    return column.feature.value.format(w=window)


def _windows(reading: RowQuery, wanted: set[str], lengths: dict[str, int]) -> dict[str, int]:
    """The windows of a reading that some column asks for, rising: lengths by name."""
    if not reading.windowed:
        return {}
    asked = {
        window: length
        for window, length in lengths.items()
        if not wanted.isdisjoint([name.format(w=window) for name in reading.names])
    }
    return dict(sorted(asked.items(), key=lambda item: item[1]))


def _ask(reading: RowQuery, place: int, windows: dict[str, int]) -> list[str]:
    asks = reading.asks.replace("WINDOWS", f"WINDOWS_{place}")
    if not reading.windowed:
        return [f"{reading.gives} = {asks}"]
    targets = ", ".join(reading.gives.format(w=window) for window in windows)
    adds = [reading.adds.format(w=window) for window in windows if reading.adds]
    return [f"({targets},) = {asks}", *adds]
