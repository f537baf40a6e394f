"""Readers of `labels`, of parked labels and of `control`: what is known before the transactions are recomputed."""

from contextlib import suppress
from typing import Any

from app.domain.transaction import DeadRecordError
from app.ops.verification.verify_run import VerifyRun
from app.wire.control_records import parse_change


class LabelReader:
    """Reads one partition of `labels`."""

    def __init__(self, case: VerifyRun, partition: int, begin: int) -> None:
        self._case = case
        self._place = partition, begin

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        self._case.labels.take(*self._place, records)


class ChangeReader:
    """Reads one partition of `control`, up to what is forwarded."""

    def __init__(self, case: VerifyRun, partition: int, done: int) -> None:
        self._case = case
        self._place = partition, done

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        partition, done = self._place
        for record in records:
            with suppress(DeadRecordError):  # it has changed nothing
                if record.offset < done:
                    change = parse_change(record.value)
                    self._case.changes.append((partition, record.offset, change))


class ParkedReader:
    """Reads one partition of the changelog of parked labels."""

    def __init__(self, case: VerifyRun, partition: int) -> None:
        self._case = case
        self._partition = partition

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        self._case.labels.rows(self._partition, records)
