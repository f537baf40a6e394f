"""Parts of the crash test that need no server: the labels that it sends, and what it calls a leak."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson

from app.blocks.core.order_of_effects import Settling
from app.domain.transaction import DeadRecordError
from app.lab.simulation.arrivals import BROKEN
from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver, simulate
from app.wire.label_records import parse_label
from tests.crash.ending import Done, States, figures, lines
from tests.crash.labels import MALFORMED, with_labels
from tests.crash.run import unexplained
from tests.crash.sabotage import CAUGHT, MISSED, summary
from tests.crash.schedule import Act
from tests.crash.watch import MORE_TASKS, Sample, Watch, grown
from tests.seeded_faults import BREAKS

#: When a broker would receive them: after all of them.
NOW_MS = 1_800_000_000_000


def test_labels_of_every_kind_are_among_the_transactions() -> None:
    made = simulate(
        SimulationConfig(cards=300, terminals=30, count=8_000, days=60, start_ms=1_735_689_600_000)
    )
    lines = list(deliver(made, Disorder(duplicates=0.02, broken=0.01)).lines())
    sent = list(with_labels(lines, seed=1))
    assert sent == list(with_labels(lines, seed=1))
    assert [(one.key, one.value) for one in sent if not one.is_label] == [
        (key, value) for key, value, _ in lines
    ]
    known = {orjson.loads(value)["transaction_id"] for _, value, kind in lines if kind != BROKEN}
    met: set[str] = set()
    verdicts: dict[str, set[bool]] = {}
    kinds = Counter[str]()
    for one in sent:
        if not one.is_label:
            if one.value and b'"transaction_id":"s1-' in one.value:
                met.add(one.value.split(b'"transaction_id":"')[1].split(b'"')[0].decode())
            continue
        try:
            label = parse_label(one.value, 0, NOW_MS, 0)
        except DeadRecordError:
            kinds["malformed"] += 1
            continue
        name = label.transaction_id
        kinds["unknown" if name not in known and not label.whole else "of something"] += 1
        kinds["astray"] += name not in known and label.whole
        kinds["early"] += name in known - met
        kinds["looked up"] += name in known and label.card_id is None
        kinds["repeated"] += label.is_fraud in verdicts.get(name, set())
        kinds["corrected"] += (not label.is_fraud) in verdicts.get(name, set())
        verdicts.setdefault(name, set()).add(label.is_fraud)
    for kind in ("malformed", "unknown", "astray", "early", "looked up", "repeated", "corrected"):
        assert kinds[kind] > 0, kinds
    assert kinds["of something"] > len(known) / 10


def test_malformed_labels_are_dead_for_different_reasons() -> None:
    reasons = []
    for value in MALFORMED:
        try:
            parse_label(value, 0, NOW_MS, 0)
        except DeadRecordError as dead:
            reasons.append(dead.reason)
    assert len(reasons) == len(set(reasons)) == len(MALFORMED)


def test_a_leak_is_told() -> None:
    fresh = Sample(200, 70, 57, 5, 1)
    old = replace(fresh, tasks=57 + MORE_TASKS, rebalances=30)
    assert grown(old, fresh) == []
    assert grown(replace(old, tasks=old.tasks + 1), fresh, servers=6) == []
    (said,) = grown(replace(old, tasks=old.tasks + 1), fresh)
    assert (
        said
        == "62 asyncio tasks after 30 rebalances, one that has just started has 57 (at most 4 more)"
    )


def test_a_worker_is_broken_as_it_was_asked_to_be() -> None:
    code = (
        "import sys; from tests.crash.worker import BREAK, prepare; prepare({BREAK: sys.argv[1]});"
        "from app.blocks.core.order_of_effects import Settling; print(Settling._store.__code__.co_code.hex())"
    )

    def made(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, name], check=True, capture_output=True, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return done.stdout.strip()

    right = Settling._store.__code__.co_code.hex()
    assert made("") == right
    assert made("persisted changelog offset off by one") != right


def test_a_halt_that_no_zombie_explains_is_amiss() -> None:
    explained = [
        "b: worker stopped in transactions/0: changelog of partition 0 continued at 9, expected 8: another worker "
        "wrote it (stopped and continued?) (log: x)",
        "a: worker stopped in transactions/1: transactions/1 was read up to 7, but its state contains it only up to 5: "
        "start again; if that does not help, its changelog was deleted: start with another FRAUDSTREAM_APP_ID",
    ]
    odd = "c: worker stopped in a part of Faust: ConsistencyError: The persisted offset (log: x)"
    assert unexplained(explained) == []
    assert unexplained([*explained, odd]) == [odd]


def test_breaks_that_are_played_exist() -> None:
    assert not CAUGHT.keys() & MISSED.keys()
    assert {*CAUGHT, *MISSED} <= {wrong.name for wrong in BREAKS}


def test_a_report_is_told_in_a_line() -> None:
    report = (
        '{"missing": 2, "differing": 0, "pending": 0, "identity": false, "examples": [{"a": 1}]}'
    )
    assert summary(report) == "verify: missing 2 (and the places do not add up), such as {'a': 1}"
    assert summary("it never ended\nand so on") == "it never ended"


def test_figures_are_one_per_line() -> None:
    outcomes = {
        "scored": 900,
        "late": 40,
        "conflicting": 1,
        "duplicate": 30,
        "dead": 20,
        "moved": 9,
    }
    report = {
        **outcomes,
        "read": sum(outcomes.values()),
        "labels": {"read": 47, "waiting": 0, "expired": 3, "dead": 5},
        **dict.fromkeys(("missing", "differing", "pending", "repeated_outputs"), 0),
    }
    taken = Sample(200.0, 80, 50, 20, 4)
    watch = Watch(dict)
    watch.highest, watch.most_tasks, watch.samples = ("a", taken), 60, 1_234
    done = Done({Act.KILL: 2, Act.WIPE: 1, ("cassandra", Act.FREEZE): 1, Act.ZOMBIE: 1})
    states = States(keys=70, marked=40, waiting=2)
    told = lines(figures(7, done, report, states, taken, taken, watch)).splitlines()
    assert max(map(len, told)) < 120
    values = {line[:20].strip(): line[20:] for line in told}
    assert values["records"] == (
        "1,000 = 900 scored + 40 late + 1 conflicting + 30 duplicate + 20 dead + 9 moved"
    )
    assert values["labels"] == "47 = 40 applied + 2 waiting + 5 dead"
    assert values["kills"] == "3, 1 with a wiped state folder"
    assert values["Cassandra outages"] == "1"
    assert values["Kafka outages"] == "0"
    assert values["most memory"] == "200 MiB in 1,234 samples"
