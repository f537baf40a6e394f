"""The terminal's features and labels: the second stage, pure. The order within `enriched` is the truth here."""

from collections.abc import Sequence
from enum import Enum

from app.domain.features import Catalogue
from app.domain.prediction_flags import CONFLICTING, HIGH_AMOUNT, LATE
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import WindowRow


class LabelOutcome(Enum):
    """What becomes of a label at its terminal."""

    APPLIED = "applied"  # or older than the one that the transaction has
    WAITING = "waiting"  # for a transaction that has not come yet
    EXPIRED = "expired"  # its transaction, if there was one, has left the state


class TerminalStage:
    """Applies transactions and labels to their terminal's row.

    Args:
        catalogue: the features.
        label_wait_ms: how long a label waits for its transaction, by the broker's time.
        max_waiting: labels that wait at one terminal.
    """

    def __init__(self, catalogue: Catalogue, label_wait_ms: int = 0, max_waiting: int = 0) -> None:
        self.catalogue = catalogue
        self._label_wait = label_wait_ms
        self._max_waiting = max_waiting

    def apply(
        self,
        row: WindowRow | None,
        event_time_ms: int,
        minor: int,
        flags: list[str],
        id8: bytes,
        catalogue: Catalogue | None = None,
        own: Sequence[int] = (),
    ) -> tuple[list[float], list[str]]:
        """Compute the terminal's features of a transaction and add it to the row.

        Args:
            row: the terminal's state, changed in place; None for a transaction without a terminal.
            event_time_ms: event time.
            minor: amount in minor units.
            flags: what the first stage found; late and conflicting transactions are not counted here either.
            id8: hash of the transaction id.
            catalogue: features that were begun under other settings; None: the stage's.
            own: codes of the deployment's own fields.

        Returns:
            The features of stage `terminal` in catalogue order, and further flags.
        """
        catalogue = catalogue or self.catalogue
        features = catalogue.terminal(row, event_time_ms, minor, own)
        if row is None:
            return features, []
        inexact = catalogue.inexact("terminal", row, event_time_ms)
        conflicting = CONFLICTING in flags
        row.insert(
            event_time_ms,
            minor,
            counted=not conflicting and LATE not in flags,
            id8=id8,
            high=HIGH_AMOUNT in flags,
            conflicting=conflicting,
            own=own,
        )
        if row.waiting:
            self._meet(row, event_time_ms, id8)
        return features, inexact

    def label(self, row: WindowRow, label: EntryLabel) -> LabelOutcome:
        """Apply a label to the entry of its transaction, or keep it until that comes.

        The caller asks `given_up` next: there may be one too many now.
        """
        if row.label(label):
            return LabelOutcome.APPLIED
        if label.event_time_ms <= row.floor_ms:
            return LabelOutcome.EXPIRED
        row.wait(label)
        return LabelOutcome.WAITING

    def given_up(self, row: WindowRow, now_ms: int) -> list[EntryLabel]:
        """Take out the labels that have waited too long, and the longest waiting beyond the bound.

        Args:
            row: the terminal's state, changed in place.
            now_ms: the broker's time of the record that is being applied: a replay agrees with itself.
        """
        waiting = row.waiting
        over = len(waiting) - self._max_waiting
        given_up = [
            label
            for index, label in enumerate(waiting)
            if index < over or now_ms - label.received_at_ms > self._label_wait
        ]
        if given_up:
            row.waiting = [label for label in waiting if label not in given_up]
        return given_up

    def _meet(self, row: WindowRow, event_time_ms: int, id8: bytes) -> None:
        """The transaction has come: its label waits no more, even if the entry has left at once."""
        for label in row.waiting:
            if label.event_time_ms == event_time_ms and label.id8 == id8:
                row.waiting.remove(label)
                row.label(label)
                return
