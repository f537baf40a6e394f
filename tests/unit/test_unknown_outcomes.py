"""Lightweight transactions whose outcome Cassandra does not tell."""

from typing import Any

import pytest
from cassandra import OperationTimedOut, ReadTimeout, WriteFailure, WriteTimeout
from cassandra.protocol import ErrorMessage, SyntaxException

from app.cassandra.lightweight_transactions import is_unknown, settled
from app.cassandra.schema_lock import schema_lock
from app.cassandra.session import explained
from app.errors import NotAnsweringError
from app.settings import load_settings

UNKNOWN = ErrorMessage(0x1700, "CAS operation result is unknown", None)
FAULTS = [
    UNKNOWN,
    WriteTimeout("late", write_type=0),
    WriteFailure("failed", write_type=0),
    OperationTimedOut(),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cassandra.lightweight_transactions._PAUSE_SECONDS", 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_they_are_repeated(fault: Exception) -> None:
    answers: list[Any] = [fault, fault, "applied"]

    def attempt() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert is_unknown(fault)
    assert settled(attempt) == "applied"


@pytest.mark.parametrize("fault", FAULTS)
def test_people_are_told_to_try_again(fault: Exception) -> None:
    def attempt() -> None:
        raise fault

    with pytest.raises(NotAnsweringError, match="try again"):
        settled(attempt)
    with (
        pytest.raises(NotAnsweringError),
        explained(load_settings({"cassandra": "127.0.0.1:9042"})),
    ):
        raise fault


def test_a_serial_read_that_lost_to_rivals_is_repeated() -> None:
    answers: list[Any] = [ReadTimeout("late"), "read"]

    def attempt() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert settled(attempt) == "read"


def test_other_errors_are_no_unknown_outcome() -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        raise SyntaxException(0x2000, "no", None)

    with pytest.raises(SyntaxException):
        settled(attempt)
    assert calls == 1


class Session:
    """Answers each statement first with an unknown outcome."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.was_applied = True

    def execute(self, statement: str, _values: Any) -> Any:
        self.asked.append(statement.split(maxsplit=1)[0])
        if len(self.asked) % 2:
            raise UNKNOWN
        return self

    def one(self) -> dict[str, Any]:
        return {"[applied]": True}


def test_the_migration_lock_is_taken_renewed_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cassandra.schema_lock._LOCK_POLL_SECONDS", 0)
    session: Any = Session()
    with schema_lock(session, "k", 60, print) as renew:
        renew()
    assert session.asked == ["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE", "DELETE"]
