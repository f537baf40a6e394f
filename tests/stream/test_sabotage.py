"""The simulation can fail: each of these breaks of one line is found within a few hundred schedules."""

import sys
from typing import Any

import pytest

from app.windows.window_row import RowRules
from tests.seeded_faults import BREAKS, Break
from tests.stream.sim_checks import play
from tests.stream.sim_oracle import compare
from tests.stream.sim_worker import sim_halt
from tests.stream.sim_world import LATENESS, SKEW, WINDOWS

#: Writes of a worker that has crashed land late, beside those of the next one; nothing else disturbs.
_LATE_WRITES: dict[str, float] = {
    "crash": 10, "late": 2, "restart": 100, "notice": 100, "freeze": 0, "rebalance": 0, "refuse": 0,
    "produce": 100, "commit": 20, "acknowledge": 10,
}  # fmt: skip
#: Partitions have company in their pulses, and what is acknowledged too early is committed before a crash.
_TOGETHER: dict[str, Any] = {
    "late_pulses": 0.99, "pulse_records": 200, "partitions": 3, "workers": 1, "records": 60, "models_here": True,
    "schemas": 0, "labels": 0, "retention": 0, "rates": {
        "crash": 20, "restart": 100, "commit": 300, "produce": 100, "rebalance": 0, "refuse": 0, "freeze": 0,
    },
}  # fmt: skip
#: No break may take longer to be found.
MAX_SCHEDULES = 300

#: Changes to the schedules that bring the case of a break about more often.
SCHEDULES: dict[str, dict[str, Any]] = {
    "acknowledged before stored": {
        "rates": {"crash": 6, "commit": 100, "rebalance": 0, "refuse": 0}
    },
    "overlay kept on revocation": {"rates": {"rebalance": 6, "crash": 0}},
    "no zombie fencing": {
        "workers": 2,
        "partitions": 1,
        "records": 60,
        "lose": 0,
        "rates": {
            "freeze": 10,
            "thaw": 5,
            "notice": 20,
            "crash": 0,
            "rebalance": 0,
            "refuse": 0,
            "produce": 100,
            "commit": 20,
        },
    },
    "gate left out": {"skew_ms": SKEW, "partitions": 3},
    "a position that Kafka has forgotten is not committed again": {
        "skew_ms": SKEW,
        "partitions": 3,
        "workers": 2,
        "forgets": 10,
    },
    "a partition whose end is not reported holds back nobody": {
        "skew_ms": SKEW,
        "partitions": 3,
        "workers": 2,
        "leaderless": 0.5,
    },
    "a partition counts as far as it has computed": {
        "skew_ms": SKEW // 3,
        "partitions": 3,
        "records": 60,
        "depth": 4,
    },
    "reprocessed label counted as new": {"labels": 1},
    "lower offset wins in recovery": {
        "workers": 2,
        "partitions": 1,
        "records": 30,
        "lose": 0,
        "rates": _LATE_WRITES,
    },
    "position before the rows": {
        "models_here": True,
        "block_records": 20,
        "row_batch_bytes": 600,
        "rules": RowRules(WINDOWS[-1] + LATENESS, 3, 0, 4),
        "records": 60,
        "pack_bytes": 1,
        "crash_after_store": 0.1,
        "rates": {"crash": 0, "restart": 50, "produce": 100, "rebalance": 0, "freeze": 0},
    },
    "second batch handed over before the first is known": {
        "own": False,
        "wider": 0,
        "changes": 0,
        "depth": 4,
        "block_records": 3,
        "rates": {"refuse": 20, "crash": 0, "produce": 100, "rebalance": 0, "freeze": 0},
    },
    "offsets without a record are never done": {"markers": 1},
    "markers acknowledged before what precedes them": {
        "markers": 1,
        "depth": 4,
        "block_records": 3,
        "rates": {"crash": 6, "commit": 100, "rebalance": 0, "refuse": 0},
    },
    "a committed offset taken for that of a record": {"markers": 1},
    "lost offsets passed over in silence": {"retention": 20},
    "a loss acknowledged before its record is durable": {
        "retention": 40,
        "late_pulses": 0,
        "partitions": 3,
        "workers": 1,
        "rates": {
            "crash": 12,
            "restart": 100,
            "commit": 1000,
            "produce": 100,
            "refuse": 0,
            "rebalance": 0,
            "freeze": 0,
        },
    },
    "a partition waits for memory that others have": {"waiting_bytes": 500},
    "a partition of which nothing is here is not fetched": {"waiting_bytes": 500},
    "rows logged behind some that are not": {"rates": {"crash": 6, "produce": 100, "refuse": 0}},
    "features of the worker instead of those that a transaction was begun with": {"wider": 0.5},
    "another stage's fields kept with a card's transactions": {"own": True},
    "a model that takes columns of other features": {"wider": 0.5, "workers": 2},
    "a worker's setting overrides what decides": {
        "model_names": ("ada", "bea"),
        "rates": {"crash": 6},
    },
    "a change applied at another offset on replay": {"changes": 0.4},
    "a challenger applied at another offset on replay": {"changes": 0.4},
    "a canary that is not sticky": {"changes": 0.4},
    "shadow scores stored as the champion's": {"changes": 0.4},
    "a shadow's score decides": {"changes": 0.4},
    "a challenger's failure depends on the company of its rows": {"changes": 0.4},
    "a change applied on some partitions only": {"changes": 0.4, "partitions": 3},
    "a rule applied at another offset on replay": {"changes": 0.4},
    "a rule applied on some partitions only": {"changes": 0.4, "partitions": 3},
    "an expired list entry still in force": {"changes": 0.4},
    "a replayed change applied again": {"changes": 0.4},
    "a change is taken back although another one followed it": {"changes": 0.4},
    "a row without a score takes its company along": {"changes": 0.4},
    "the score of the model before stored as that of the one that decides": {
        "changes": 0.4,
        "faulty": 0.8,
    },
    "one earlier model only is asked for a score": {"changes": 0.4, "faulty": 0.8},
    "the oldest of the earlier models decides": {"changes": 0.4, "faulty": 0.8},
    "an earlier model that is not here is passed over": {
        "changes": 0.4,
        "faulty": 0.8,
        "models_here": False,
    },
    "what is computed again has changed rows before": {
        "changes": 0.4,
        "faulty": 0.8,
        "models_here": False,
    },
    "a model that was taken back decides where the other one gives no score": {
        "changes": 0.4,
        "faulty": 0.8,
    },
    "another model scores while the right one is loaded": {"changes": 0.4, "models_here": False},
    "what decides is lost in a crash": {"changes": 0.4, "rates": {"crash": 6}},
    "an erased card comes back on replay": {"erasures": 0.2, "rates": {"crash": 6, "commit": 1}},
    "a frozen worker brings an erased card back": {
        "erasures": 0.6,
        "workers": 2,
        "partitions": 1,
        "records": 40,
        "lose": 0,
        "retention": 0,
        "markers": 0,
        "models_here": True,
        "schemas": 0,
        "rates": _LATE_WRITES,
    },
    "an erasure overtakes the transactions before it": {"erasures": 0.2},
    "segments of an erased card stay": {"erasures": 0.2},
    "an erased card's row of a misrouted record stays": {"erasures": 0.2, "partitions": 3},
    "labels of an erased card wait on": {"erasures": 0.2, "labels": 1},
    "a prediction acknowledged before its row is stored": {
        "stored": True,
        "lose_passed": 0,
        "rates": {"crash": 6, "commit": 100},
    },
    "outputs called durable when their first batch is": {
        "rates": {"crash": 20, "restart": 100, "commit": 300, "rebalance": 0, "refuse": 0}
    },
    "outputs of a pulse handed over with those of its first partition": _TOGETHER,
    "what a pulse computes again is remembered from before": {
        **_TOGETHER,
        "changes": 0.4,
        "faulty": 0.8,
        "models_here": False,
    },
    "a partition that is paused for alignment stops its pulse": {
        "skew_ms": SKEW,
        "partitions": 3,
        "workers": 1,
    },
    "a prediction acknowledged when one of its block's rows is stored": {
        "stored": True,
        "lose_passed": 0.3,
        "rates": {"crash": 20, "restart": 100, "commit": 300},
    },
    "rows of a block taken for stored because one of them is on its way": {
        "stored": True,
        "lose_passed": 0.3,
    },
}


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.name)
def test_break_is_found(wrong: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = SCHEDULES.get(wrong.name, {})
    original = sys.modules[wrong.module]
    with monkeypatch.context() as patch:
        # dataclasses look their module up by name while a class is made
        patch.setitem(sys.modules, wrong.module, original)
        mutant = wrong.mutant()
    if "halt" in vars(mutant):
        vars(mutant)["halt"] = sim_halt  # the simulation replaces the right module's only
    with monkeypatch.context() as patch:
        for module, name in wrong.takes:
            patch.setattr(sys.modules[module], name, getattr(mutant, name))
        found = next((s for s in range(MAX_SCHEDULES) if wrongs(s, **schedules)), None)
    assert found is not None, f"{MAX_SCHEDULES} schedules did not find: {wrong.name}"
    assert not wrongs(found, **schedules), "the schedule fails without the break, too"


def wrongs(seed: int, **schedules: Any) -> list[str]:
    """What is wrong at the end of a schedule: against one pass by the same rules, then against the oracle's."""
    world, problems = play(seed, **schedules)
    return problems or compare(world)


def test_a_schedule_that_waits_for_a_schema_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two partitions are paused for the third one's schema. They look at positions, so time passes slowly."""
    monkeypatch.setattr(
        "tests.stream.sim_world.MAX_STEPS", 40_000
    )  # it has more, and commits on its way
    assert not wrongs(35, **SCHEDULES["a loss acknowledged before its record is durable"])


def test_schedules_are_of_breaks() -> None:
    assert SCHEDULES.keys() <= {wrong.name for wrong in BREAKS}
