"""State for another number of partitions: the rows of each card and terminal in the partition of their key. Pure.

A row's `last_offset` refers to the partition that its records came from. All of these are processed, so a moved row
gets the last offset that its new partition of the source topic has now: later records are above it. `enriched` is a
new, empty topic: there it is -1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from app.blocks.core.row_groups import RowGroup
from app.blocks.core.row_precedence import DELETED_KEY
from app.domain.changes_in_force import InForce
from app.errors import SettingsError, StateError
from app.ops.state_comparison import keys
from app.settings import Settings
from app.stages.earlier_partitions import Earlier
from app.stages.parked_labels import PREFIX
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    POSITION_KEY,
    StatePosition,
    in_force_row,
    read_in_force,
)
from app.stages.state_settings import (
    differences,
    state_settings,
    stored_settings,
    terminal_settings,
)
from app.windows.row_format import decode_head, head_key, segment_key

#: Key and bytes of every row of one partition of one table.
Rows = Mapping[bytes, bytes]
#: Give the partition of a key before and after.
Places = tuple[Callable[[bytes], int], Callable[[bytes], int]]
_NO_RECORD = -1


class Move(Protocol):
    """Moves the rows of one table.

    Attributes:
        moved: cards, terminals or labels so far.
    """

    moved: int

    def take(self, number: int, rows: Rows) -> Iterator[tuple[int, RowGroup]]:
        """The rows of one old partition: groups of rows, each with its new partition."""

    def reserved(self) -> Iterator[tuple[int, RowGroup]]:
        """What each new partition says of itself, once all old ones were taken."""


class _WindowRowsMove:
    """The part of a `Move` that cards and terminals share.

    Args:
        said: collects what the old partitions say.
        places: give the old partition of a key, and the new one.
        last_offsets: by new partition, the `last_offset` of rows that move there.
    """

    def __init__(self, said: "_Said", places: Places, last_offsets: Sequence[int]) -> None:
        self.moved = 0
        self._said = said
        self._was_in, self._place = places
        self._last_offsets = last_offsets

    def take(self, number: int, rows: Rows) -> Iterator[tuple[int, RowGroup]]:
        """See `Move`; raises what `moved` raises."""
        self._said.take(rows)
        for placed in moved(rows, number, self._was_in, self._place, self._last_offsets):
            self.moved += 1
            yield placed


class CardsMove(_WindowRowsMove):
    """See `Move`. Cards' input goes on in the same topic, in some partitions behind what there is.

    Args:
        settings: those of before.
        partitions: the new number.
        places: give the old partition of a key, and the new one.
        ended: what is processed.
    """

    def __init__(self, settings: Settings, partitions: int, places: Places, ended: Earlier) -> None:
        ends = [*ended.transactions, *[0] * (partitions - ended.partitions)]
        super().__init__(
            _Said("cards", state_settings(settings)), places, [end - 1 for end in ends]
        )

    def reserved(self) -> Iterator[tuple[int, RowGroup]]:
        """See `Move`."""
        for partition, last_offset in enumerate(self._last_offsets):
            yield partition, [self._said.position(last_offset).encode()]


class TerminalsMove(_WindowRowsMove):
    """See `Move`. Terminals' input begins in a new topic; what was sent before is known, and what decides.

    Args:
        settings, partitions, places, ended: see `CardsMove`.
        labels: the topic of that name.
    """

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        places: Places,
        ended: Earlier,
        labels: str,
    ) -> None:
        said = _Said("terminals", terminal_settings(settings))
        super().__init__(said, places, [_NO_RECORD] * partitions)
        self._seen = _last(ended.transactions)
        self._labels = {labels: _last(ended.labels)}

    def reserved(self) -> Iterator[tuple[int, RowGroup]]:
        """See `Move`.

        Raises:
            StateError: no worker has written yet what decides.
        """
        position = self._said.position(_NO_RECORD)
        position.seen, position.labels = self._seen, self._labels
        decides = self._said.in_force
        if decides is None:
            msg = (
                "no partition of `enriched` says which model decides: start the workers of this release once, then "
                "stop them"
            )
            raise StateError(msg)
        for partition in range(len(self._last_offsets)):
            yield partition, [in_force_row(decides, _NO_RECORD), position.encode()]


class LabelsMove:
    """See `Move`. Rows of parked labels and of erasures are about offsets of `labels`: they stay where they are."""

    def __init__(self) -> None:
        self.moved = 0

    def take(self, number: int, rows: Rows) -> Iterator[tuple[int, RowGroup]]:
        """See `Move`."""
        for key, raw in sorted(rows.items()):
            if key in (POSITION_KEY, DELETED_KEY) or key.startswith(PREFIX):
                self.moved += key.startswith(PREFIX)
                yield number, [(key, raw)]

    def reserved(self) -> Iterator[tuple[int, RowGroup]]:
        """See `Move`."""
        yield from ()


def moved(
    rows: Rows,
    number: int,
    was_in: Callable[[bytes], int],
    place: Callable[[bytes], int],
    last_offsets: Sequence[int],
) -> Iterator[tuple[int, RowGroup]]:
    """Each key of one old partition: its new partition, and its rows for there.

    A misrouted record leaves an empty row of its card in the partition that it came to: nobody needs it any more.

    Args:
        rows: of the old partition.
        number: of the old partition.
        was_in: gives the old partition of a key.
        place: gives the new partition of a key.
        last_offsets: by new partition, the `last_offset` of rows that move there.

    Raises:
        StateError: a row that a head names is missing, or a key has entries in another partition than its own.
        RowFormatError: a row is damaged.
    """
    for key in keys(rows):
        head = head_key(key)
        _, _, _, _, _, refs, tail, _ = decode_head(rows[head])
        names = [*(segment_key(key, ref.number) for ref in refs), head]
        if was_in(key) != number:
            if refs or tail.times:
                msg = f"a key has transactions in partition {number}, where it does not belong"
                raise StateError(msg)
            continue
        if missing := [name for name in names if name not in rows]:
            msg = f"the changelog of partition {number} lacks {len(missing)} rows of one key"
            raise StateError(msg)
        partition = place(key)
        offset = last_offsets[partition].to_bytes(8, "big", signed=True)
        yield partition, [(name, offset + rows[name][8:]) for name in names]


class _Said:
    """Collects what the old partitions of one table say of themselves.

    Args:
        where: the table, for errors.
        now: its settings as text: see `app/stages/state_settings.py`.

    Attributes:
        in_force: what decides; None where nothing says so.
    """

    def __init__(self, where: str, now: str) -> None:
        self._where = where
        self._now = now
        self._settings: str | None = None
        self._unnamed = ""
        self.in_force: InForce | None = None

    def take(self, rows: Rows) -> None:
        """The rows of one partition.

        Raises:
            SettingsError: it was built with other settings than the present ones.
            StateError: partitions differ in what decides.
        """
        raw = rows.get(POSITION_KEY)
        if raw is not None:
            position = StatePosition.decode(raw, self._now)
            if differing := differences(position.settings, self._now):
                was, now = differing
                msg = (
                    f"the state of {self._where} was built with {was}, but the settings are {now}: restore these "
                    "settings"
                )
                raise SettingsError(msg)
            before = position.settings if self._settings is None else self._settings
            self._settings = stored_settings(position.settings, before)
            self._unnamed = self._unnamed or position.unnamed
        in_force = read_in_force(rows.get(IN_FORCE_KEY))
        if in_force is None:
            return
        # offsets of `enriched` begin again
        in_force = msgspec.structs.replace(in_force, first=0)
        if self.in_force not in (None, in_force):
            msg = (
                "the partitions of `enriched` differ in the model, threshold or rules that decide: start the workers "
                "until they have processed everything, then stop them and run the command again"
            )
            raise StateError(msg)
        self.in_force = in_force

    def position(self, last_offset: int) -> StatePosition:
        """That of a new partition."""
        return StatePosition(last_offset, self._settings or self._now, unnamed=self._unnamed)


def _last(ends: Sequence[int]) -> dict[int, int]:
    return {number: end - 1 for number, end in enumerate(ends) if end}
