"""Which column of a file becomes which field of the record, and which are left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from zoneinfo import ZoneInfo

from app.errors import UsageError
from app.input_records import INPUT_FIELDS
from app.tools.producing.amounts import Rounding
from app.tools.simulation.files import LABEL_FIELDS

REQUIRED = ("transaction_id", "card_id", "amount", "event_time")
KNOWN = (*REQUIRED, *sorted(INPUT_FIELDS.difference(REQUIRED)))
#: Columns that say what is fraud, of our own files and of the Fraud Detection Handbook's. A stream
#: that could read the answers would prove nothing, so they are left out.
LABEL_COLUMNS = frozenset({*LABEL_FIELDS, "TX_FRAUD", "TX_FRAUD_SCENARIO"})


@dataclass(frozen=True)
class Plan:
    """What becomes of each column.

    Attributes:
        targets: name in the record of each column of the file; None leaves it out.
        only_known: columns not in `targets` are left out (JSON lines may bring new ones).
        run: prefix of transaction ids, "" for none.
        zone: time zone of event times that name none; None refuses them.
        rounding: rounds amounts; None leaves them as they are.
    """

    targets: Mapping[str, str | None]
    only_known: bool = False
    run: str = ""
    zone: ZoneInfo | None = None
    rounding: Rounding | None = None
    columns: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Note what the file calls each field, for messages."""
        names = {target: name for name, target in self.targets.items() if target}
        object.__setattr__(self, "columns", names)

    @property
    def dropped(self) -> list[str]:
        """Columns that are left out."""
        return [name for name, target in self.targets.items() if target is None]

    @property
    def passes(self) -> bool:
        """Whether a record can be sent as it stands, when nothing in it needs to change."""
        return not self.run and not self.only_known and all(k == v for k, v in self.targets.items())


def make_plan(
    path: object,
    columns: Iterable[str],
    *,
    mapping: Mapping[str, str] | None = None,
    drop: Iterable[str] = (),
    only_known: bool = False,
    run: str = "",
    zone: ZoneInfo | None = None,
    rounding: Rounding | None = None,
) -> Plan:
    """Decide what becomes of each column.

    Args:
        path: the file, for messages.
        columns: the file's columns.
        mapping: field of the record -> column of the file.
        drop: columns to leave out.
        only_known: leave out all columns that the input record does not define.
        run: prefix of transaction ids.
        zone: time zone of event times that name none.
        rounding: rounds amounts; None leaves them as they are.

    Raises:
        UsageError: a column does not exist, or a required field has none.
    """
    columns, mapping = list(columns), dict(mapping or {})
    have = f"its columns are {', '.join(columns)}" if columns else "it has no records"
    for target in mapping:
        if target not in KNOWN:
            close = get_close_matches(target, KNOWN, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KNOWN)}"
            msg = (
                f"--map {target}={mapping[target]}: the input record has no field {target}; {hint}"
            )
            raise UsageError(msg)
    wanted = [(f"--map {target}={name}", name) for target, name in mapping.items()]
    for option, name in wanted + [(f"--drop {name}", name) for name in drop]:
        if name not in columns:
            msg = f"{option}: {path} has no column {name}; {have}"
            raise UsageError(msg)
    chosen = {name: target for target, name in mapping.items()}
    if len(chosen) < len(mapping):
        msg = "--map uses one column for two fields; each needs its own"
        raise UsageError(msg)
    targets: dict[str, str | None] = {}
    for name in columns:
        unwanted = (
            name in set(drop)
            or name in LABEL_COLUMNS
            or name in mapping  # another column takes its name
            or (only_known and name not in KNOWN)
        )
        targets[name] = chosen.get(name, None if unwanted else name)
    missing = [name for name in REQUIRED if name not in targets.values()]
    if missing and columns:
        options = " ".join(f"--map {name}=COLUMN" for name in missing)
        msg = f"{path} has no column for {', '.join(missing)}: give {options}; {have}"
        raise UsageError(msg)
    return Plan(targets, only_known, run, zone, rounding)
