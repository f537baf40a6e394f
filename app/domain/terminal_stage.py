"""The terminal's features: the second stage, pure. The order within `enriched` is the truth here."""

from app.domain.card_stage import LATE
from app.domain.features import Catalogue
from app.domain.window_row import WindowRow


class TerminalStage:
    """Applies transactions to their terminal's row.

    Args:
        catalogue: the features.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def apply(
        self, row: WindowRow | None, event_time_ms: int, minor: int, flags: list[str], id8: bytes
    ) -> tuple[list[float], list[str]]:
        """Compute the terminal's features of a transaction and add it to the row.

        Args:
            row: the terminal's state, changed in place; None for a transaction without a terminal.
            event_time_ms: event time.
            minor: amount in minor units.
            flags: what the first stage found; a late transaction is not counted here either.
            id8: hash of the transaction id.

        Returns:
            The features of stage `terminal` in catalogue order, and further flags.
        """
        features = self.catalogue.terminal(row, event_time_ms)
        if row is None:
            return features, []
        inexact = self.catalogue.inexact("terminal", row, event_time_ms)
        row.insert(event_time_ms, minor, counted=LATE not in flags, id8=id8)
        return features, inexact
