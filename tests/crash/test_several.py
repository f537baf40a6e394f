"""Parts of the crash test with several brokers and nodes (`make crash BROKERS=3 NODES=3`) that need no server."""

import pytest

from tests.crash.schedule import Act, Counts, schedule
from tests.crash.silence import Outage, Period, figures, pauses, silences, too_long


@pytest.mark.parametrize("count", (2, 3, 4, 5))
def test_every_act_meets_every_broker_and_node(count: int) -> None:
    acts = (Act.CRASH, Act.FREEZE, Act.CUT, Act.LOSE)
    for seed in range(5):
        steps = schedule(seed, Counts.of(20), {"broker": count, "node": count})
        met = {(step.act, step.target) for step in steps}
        for kind in ("broker", "node"):
            assert met >= {(act, f"{kind} {n + 1}") for act in acts for n in range(count)}
            few = schedule(seed, Counts.of(2), {"broker": count, "node": count})
            assert {step.act for step in few if step.target.startswith(kind)} == {*acts}


def test_silence_is_only_where_something_waits() -> None:
    # partition 0: one after the other, then a record that waits while nothing comes out; 1: nothing to do for long
    done = [
        (0, 1.0, 2.0),
        (0, 2.5, 3.0),
        (0, 10.0, 30.0),
        (0, 11.0, 30.5),
        (1, 1.0, 1.5),
        (1, 99.0, 99.5),
    ]
    found = silences(done)
    assert max(one.seconds for one in found) == 20.0
    assert Period(10.0, 30.0) in found
    assert Period(99.0, 99.5) in found
    # an older record that is finished later waits all the time
    assert Period(5.0, 9.0) in silences([(0, 1.0, 5.0), (0, 2.0, 9.0)])


def test_the_longest_silence_of_each_kind_of_outage_is_told_and_bounded() -> None:
    outages = [Outage(100.0, 130.0, "broker crash"), Outage(300.0, 330.0, "node freeze")]
    scoring = [Period(90.0, 104.0), Period(140.0, 260.0), Period(305.0, 306.0)]
    storing = pauses([310.0, 99.0, 101.0, 322.5])
    assert figures(outages, scoring, storing) == [
        ("broker crash", "1 times, longest silence 14.0 s in scoring, 209.0 s in storing"),
        ("node freeze", "1 times, longest silence 1.0 s in scoring, 209.0 s in storing"),
    ]
    assert too_long(outages, scoring, []) is None, "nothing was away then"
    said = too_long(outages, scoring, storing)
    assert said == "storing was silent for 209 s (broker crash, node freeze), more than 180 s"
