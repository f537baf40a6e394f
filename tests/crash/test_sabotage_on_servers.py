"""The ordeal can fail: one break on the session's servers; `make crash-sabotage` tries the others."""

from dataclasses import replace

import pytest

from app.settings import Settings
from tests.breaks import BREAKS
from tests.crash.ordeal import HARSH
from tests.crash.sabotage import CAUGHT, MISSED, SLOW, kill, play, summary
from tests.stack import Servers

WRONG = "replayed record applied again"


@pytest.mark.crash
@pytest.mark.timeout(290)
def test_a_broken_worker_does_not_get_through(
    stack: Servers, settings: Settings, seed: int
) -> None:
    outcome = play(
        stack.require_local(),
        settings.model_copy(update={**HARSH, "label_wait": 1_000}),
        WRONG,
        (SLOW, kill("a"), replace(kill("b"), settle=False)),
        seed=seed,
        events=3_000,
    )
    print(outcome)
    assert outcome.found is not None
    assert outcome.found.startswith("verify: "), outcome.found


def test_breaks_that_are_played_exist() -> None:
    assert not CAUGHT.keys() & MISSED.keys()
    assert {*CAUGHT, *MISSED} <= {wrong.name for wrong in BREAKS}


def test_a_report_is_told_in_a_line() -> None:
    report = (
        '{"missing": 2, "differing": 0, "pending": 0, "identity": false, "examples": [{"a": 1}]}'
    )
    assert summary(report) == "verify: missing 2 (and the places do not add up), such as {'a': 1}"
    assert summary("it never ended\nand so on") == "it never ended"
