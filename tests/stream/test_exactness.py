"""Nothing lost, nothing counted twice, whatever happens: the real partitions, handlers and tables of both stages,
driven by simulated Kafka, disks and workers through seeded schedules of trouble.

```text
 seed ─► plan ─► steps drawn at random: produce, fetch, deliver, land, acknowledge, commit, rebalance,
                 SIGKILL, SIGSTOP and SIGCONT, wipe a disk, refuse a batch, lose a block, restart with another model
              ─► calm: everybody alive until all is committed ─► one more recovery ─► compare
```

In a quarter of the schedules a sink stores the predictions, some of them before their records are durable.
In half of the schedules everything is there from the start, in partitions that run apart in event time.

Compared with one pass over the same log, and with the oracle: outputs (all copies of each), the one place of
every source record, and the rows in stores, in the changelog, and in what compaction would leave of it.

A failure names its seed: `python -m tests.stream.play SEED` plays that schedule again.
"""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.seed import SEED
from tests.stream.sim_checks import play, stored
from tests.stream.sim_oracle import compare

BASE = SEED * 1_000_000
#: In `make test`; `python -m tests.stream.play 0 --count 50000` plays more.
SCHEDULES, AT_ONCE = 800, 16


@pytest.fixture(scope="module", autouse=True)
def _calm_collector() -> Iterator[None]:
    """Schedules leave cycles behind by the thousand; looking for them too often takes a third of the time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


#: What the schedules went through, all together.
seen: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_any_schedule_ends_as_a_single_pass(first: int) -> None:
    for seed in range(BASE + first, BASE + first + AT_ONCE):
        world, problems = play(seed, stored=stored(seed))
        seen.update(world.seen)
        problems = problems or compare(world)
        assert not problems, f"seed {seed}: {len(problems)} problems:\n" + "\n".join(problems[:5])


def test_schedules_were_hard_enough() -> None:
    """Runs after the schedules above: everything that may happen did, some hundred times or more."""
    if not seen:
        pytest.skip("no schedule was played before")
    for what in ("crash", "wiped", "rebalance", "lost", "held", "no end", "early", "together"):
        assert seen[what] > 300, (what, seen)
    for what in ("zombie", "halt ForeignWriterError", "crash after store"):
        assert seen[what] > 30, (what, seen)
    assert seen["looked"] > 15, seen


def test_a_schedule_can_be_played_again() -> None:
    first, _ = play(BASE + 7)
    second, _ = play(BASE + 7)
    logs = [
        [(key, [(r.key, r.value) for r in log.records]) for key, log in world.broker.logs.items()]
        for world in (first, second)
    ]
    assert logs[0] == logs[1]
    assert first.seen == second.seen
