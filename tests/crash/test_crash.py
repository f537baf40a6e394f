"""A short crash test on the session's servers; `make crash` runs a long one."""

import pytest

from app.settings import Settings
from tests.crash.changes import KINDS
from tests.crash.run import HARSH, CrashTest
from tests.crash.schedule import SPARED, Act, Counts, schedule
from tests.real_servers import Servers

SHORT = Counts(
    kills=2, wipes=1, all=0, moves=1, zombies=1, kafka=0, cassandra=1, delays=1, stalls=1
)


@pytest.mark.crash
@pytest.mark.timeout(1_200)
def test_a_short_crash_test(stack: Servers, settings: Settings, seed: int) -> None:
    crash_test = CrashTest(
        stack.require_local(),
        settings.model_copy(update={**HARSH, "label_wait": 2_000}),
        seed=seed,
        steps=schedule(seed, SHORT),
        events=8_000,
        seconds_a_step=6.0,
        changes=2 * len(KINDS),
    )
    print(crash_test.run())
    assert sum(crash_test.done.values()) == 7
    # there may be nothing to go back to, and no challenger to stop
    assert crash_test._changes.made.keys() >= {*KINDS} - {"rollback", "stop"}
    committed, aborted = crash_test._feed.transactions
    assert committed > 0
    assert aborted > 0


def test_a_seed_always_draws_the_same_steps() -> None:
    for seed in range(20):
        steps = schedule(seed, Counts.of(20))
        assert steps == schedule(seed, Counts.of(20))
        assert steps != schedule(seed + 1, Counts.of(20))
        running = {"a", "b"}
        for step in steps:
            if step.act is Act.ADD:
                assert step.target not in running
                running.add(step.target)
            elif step.act is Act.REMOVE:
                running.remove(step.target)
                assert len(running) >= 2
            elif step.target not in ("all", "kafka", "cassandra", "feed"):
                assert step.target in running
        last = steps[len(steps) - len(steps) // 3 :]
        assert not [step for step in last if step.target == SPARED and step.act is not Act.ADD]
        assert Act.KILL_ALL not in {step.act for step in last}
        acts = [step.act for step in steps]
        assert acts.count(Act.WIPE) == 5
        assert sum(act in (Act.KILL, Act.WIPE, Act.KILL_ALL) for act in acts) == 20
