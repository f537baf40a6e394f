"""What a crash test does and when: everything follows from the seed."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

NAMES = ("a", "b", "c")
#: The last third of the steps leaves this worker alone: it lives through many rebalances, to be looked at.
SPARED = NAMES[0]
#: Workers that are meant to run at least and at most.
FEWEST, MOST = 2, len(NAMES)
#: A trickle, that finds a worker between two blocks, and a flood, that finds it with many of them.
_LOADS = (0.2, 1.0, 1.8)


class Act(StrEnum):
    """What is done to a worker, to all of them, or to a server."""

    KILL = "kill"  # SIGKILL, and start again
    WIPE = "wipe"  # SIGKILL, delete the state folder, and start again
    KILL_ALL = "kill all"
    ADD = "add"
    REMOVE = "remove"  # SIGTERM
    ZOMBIE = "zombie"  # SIGSTOP until its partitions have moved, then SIGCONT
    RESTART = "restart"  # a server, in order
    CRASH = "crash"  # a server, with SIGKILL
    FREEZE = "freeze"  # a server, with SIGSTOP and SIGCONT
    CUT = "cut off"  # a server, from everything else
    LOSE = "lose disk"  # a server, with SIGKILL; it begins again with an empty disk
    DELAY = "delay"  # each request of the workers' producers
    STALL = "stall"  # the thread that sends records


_TARGETS = {Act.RESTART: "kafka", Act.CRASH: "kafka", Act.DELAY: "all", Act.STALL: "feed"}
#: Seconds that a spell takes at most.
_LONGEST = {
    Act.FREEZE: 15.0, Act.CRASH: 4.0, Act.RESTART: 2.0, Act.ZOMBIE: 3.0, Act.DELAY: 20.0, Act.STALL: 8.0,
}  # fmt: skip
KILLS = (Act.KILL, Act.WIPE, Act.KILL_ALL)
#: What the members of a cluster are called in steps (`broker 2`), and which server each is.
MEMBERS = {"broker": "kafka", "node": "cassandra"}
#: What is done to each of several brokers and nodes in turn.
_TO_MEMBERS = (Act.CRASH, Act.FREEZE, Act.CUT, Act.LOSE)
#: Seconds for which one is away at least: longer than others take to notice.
_MEMBER_AWAY = 15.0


@dataclass(frozen=True)
class Step:
    """One thing that is done.

    Attributes:
        act: what.
        target: a worker's name, `kafka`, `cassandra`, `broker 2`, `node 2` or `feed`; `all` for all workers.
        settle: first wait until the workers have settled; else it may hit them while they recover.
        gap: seconds before it.
        spell: seconds until what it did is undone.
        load: rate of records until the next step, times the even one.
    """

    act: Act
    target: str
    settle: bool
    gap: float
    spell: float
    load: float


@dataclass(frozen=True)
class Counts:
    """How much is done.

    Attributes:
        kills: workers' deaths by SIGKILL, wiped ones among them; killing all at once is one.
        wipes: how many of them lose their state folder; `all`: how many hit every worker at once.
        moves: additions and removals.
        zombies: workers that are stopped and continued.
        kafka: restarts and crashes of Kafka, in turn.
        cassandra: outages of Cassandra, frozen and crashed in turn.
        delays: spells during which everything that workers send to Kafka is delayed.
        stalls: of the producer of records, which then sends what was due at once.
    """

    kills: int
    wipes: int
    all: int
    moves: int
    zombies: int
    kafka: int
    cassandra: int
    delays: int
    stalls: int

    @classmethod
    def of(cls, kills: int) -> "Counts":
        """What a number of kills comes with."""
        return cls(
            kills=kills,
            wipes=-(-kills // 4),
            all=kills // 10,
            moves=max(2, kills // 3),
            zombies=max(1, kills // 5),
            kafka=max(1, kills // 8),
            cassandra=max(2, kills // 5),
            delays=max(1, kills // 4),
            stalls=max(1, kills // 10),
        )


def schedule(seed: int, counts: Counts, members: Mapping[str, int] | None = None) -> list[Step]:
    """The steps of a seed, in order. Workers `a` and `b` run at first.

    Args:
        seed: draws them.
        counts: how much is done.
        members: how many brokers and nodes there are (`broker`, `node`); by default one Kafka and one Cassandra.
    """
    rng = random.Random(f"ordeal {seed}")
    acts = (
        [Act.WIPE] * counts.wipes
        + [Act.KILL_ALL] * counts.all
        + [Act.KILL] * (counts.kills - counts.wipes - counts.all)
        + [Act.ADD] * counts.moves  # or a removal, where there are enough
        + [Act.ZOMBIE] * counts.zombies
        + [
            Act.RESTART if number % 2 == 0 else Act.CRASH
            for number in range(0 if members else counts.kafka)
        ]
        + [Act.DELAY] * counts.delays
        + [Act.STALL] * counts.stalls
    )
    steps: list[tuple[Act, str | None]] = [(act, _TARGETS.get(act)) for act in acts]
    for name, count in (members or {}).items():
        # every act meets every one of them, in as many steps as there are such pairs; all acts come first
        again = math.lcm(len(_TO_MEMBERS), count)
        steps += [
            (_TO_MEMBERS[turn % len(_TO_MEMBERS)], f"{name} {(turn + turn // again) % count + 1}")
            for turn in range(max(len(_TO_MEMBERS), counts.kills * count // 5))
        ]
    for number in range(0 if members else counts.cassandra):
        steps.append((Act.FREEZE if number % 2 == 0 else Act.CRASH, "cassandra"))
    rng.shuffle(steps)
    quiet_from = len(steps) - len(steps) // 3
    everybody = [step for step in steps if step[0] is Act.KILL_ALL]
    others = [step for step in steps if step[0] is not Act.KILL_ALL]
    for step in everybody:  # none is spared: they come before
        others.insert(rng.randrange(quiet_from - len(everybody) + 1), step)
    running = list(NAMES[:FEWEST])
    return [
        _step(rng, act, target, running, spared=SPARED if number >= quiet_from else None)
        for number, (act, target) in enumerate(others)
    ]


def _step(
    rng: random.Random, act: Act, target: str | None, running: list[str], *, spared: str | None
) -> Step:
    if act is Act.ADD and len(running) > FEWEST and (len(running) == MOST or rng.random() < 0.5):
        act = Act.REMOVE
    if act is Act.ADD:
        target = rng.choice([name for name in NAMES if name not in running])
        running.append(target)
    elif act is Act.KILL_ALL:
        target = "all"
    elif target is None:
        target = rng.choice([name for name in running if name != spared])
        if act is Act.REMOVE:
            running.remove(target)
    return Step(
        act,
        target,
        settle=rng.random() < 0.7,
        gap=rng.uniform(0.2, 3.0),
        spell=_spell(rng, act, target),
        load=rng.choice(_LOADS),
    )


def _spell(rng: random.Random, act: Act, target: str) -> float:
    spell = rng.uniform(0.1, 1.0) * _LONGEST.get(act, 1.5)
    return spell if target.partition(" ")[0] not in MEMBERS else spell + _MEMBER_AWAY
