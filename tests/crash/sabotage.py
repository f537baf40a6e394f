"""The crash test can fail: workers that are broken in one line must not get through it.

    python -m tests.crash.sabotage                          # every break that it can find, one after the other
    python -m tests.crash.sabotage "no zombie fencing"

For each name (`tests/seeded_faults.py`; the simulation finds all of them) it plays a short crash test on real servers,
with a schedule that brings the case about, and expects it not to be clean. Unless names are given, it first plays one
without any break, which must be clean. It exits with 0 only if all of that is so.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.devstack.stack import Stack
from app.settings import Settings
from tests.crash.run import CrashTest, CrashTestError, crash_settings, end_when_told, remove
from tests.crash.schedule import Act, Step
from tests.seeded_faults import BREAKS

#: Without any break.
NOTHING = ""
#: For the stream to finish: a break may keep it from that.
_DRAIN_SECONDS = 60.0


def kill(name: str, *, spell: float = 0.1, gap: float = 2.0) -> Step:
    """SIGKILL to a worker that has settled, under load."""
    return Step(Act.KILL, name, settle=True, gap=gap, spell=spell, load=1.0)


#: Everything that workers send is delayed for as long as this.
SLOW = Step(Act.DELAY, "all", settle=True, gap=0.5, spell=600.0, load=1.0)
#: For so long others write where the zombie was, before it goes on.
_ZOMBIE = Step(Act.ZOMBIE, "a", settle=True, gap=1.5, spell=4.0, load=1.0)
_COME = Step(Act.ADD, "c", settle=True, gap=1.5, spell=0.0, load=1.0)
_GO = replace(_COME, act=Act.REMOVE)

KILLED = (SLOW, *[kill(name) for name in "ababab"])
#: A worker that keeps a partition through a rebalance reads its store's offset again.
MOVED = (SLOW, *[_COME, _GO] * 4)
#: What a zombie had on its way is appended behind what others have written meanwhile; then partitions come back to it.
UNDEAD = (SLOW, _ZOMBIE, replace(_ZOMBIE, target="b"), _ZOMBIE, replace(_ZOMBIE, target="b"))

#: The breaks that real servers, a few kills and some minutes bring to light, and the steps that do.
CAUGHT: dict[str, tuple[Step, ...]] = {
    "changelog before outputs": KILLED,
    "reprocessed record counted as new in the second stage": KILLED,
    "late record does not advance last_offset": KILLED,
    "no zombie fencing": UNDEAD,
    "persisted changelog offset off by one": MOVED,
}
#: Settings under which a case comes about: what is acknowledged too early must be committed before the kill.
UNDER: dict[str, dict[str, int]] = {"acknowledged before stored": {"commit_interval": 100}}
#: Those that the crash test did not find so far, and may be asked for by name.
MISSED: dict[str, tuple[Step, ...]] = {
    "acknowledged before stored": KILLED,
    "reprocessed record applied again": KILLED,
    "overlay kept on revocation": MOVED,
    "no contiguity check after a seek": MOVED,
}


@dataclass(frozen=True)
class Outcome:
    """How one crash test ended.

    Attributes:
        name: of the break.
        found: what was amiss, one line; None when it was clean.
        seconds: it took.
    """

    name: str
    found: str | None
    seconds: float

    @property
    def right(self) -> bool:
        """Whether it ended as it must."""
        return (self.found is not None) == (self.name != NOTHING)

    def __str__(self) -> str:
        name = self.name or "no break"
        end = f"NOT CLEAN: {self.found}" if self.found else "clean"
        return f"{'right' if self.right else 'WRONG'}  {name} ({self.seconds:.0f} s): {end}"


def play(
    stack: Stack, settings: Settings, name: str, steps: Sequence[Step], *, seed: int, events: int
) -> Outcome:
    """Play one short crash test with broken workers.

    Args:
        stack: its servers, running.
        settings: a deployment of its own.
        name: of the break; `NOTHING` for none.
        steps: what is done.
        seed: makes the records.
        events: about how many.
    """
    began = time.monotonic()
    crash_test = CrashTest(
        stack, settings, seed=seed, steps=steps, events=events, seconds_a_step=4.0, wrong=name,
        drain_seconds=_DRAIN_SECONDS, changes=0,
    )  # fmt: skip
    found = None
    try:
        crash_test.run()
    except (CrashTestError, AssertionError) as error:
        found = summary(str(error))
    return Outcome(name, found, time.monotonic() - began)


def summary(text: str) -> str:
    """The counts of a report of `verify` that tell what is wrong, else the first line."""
    import orjson

    try:
        report = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.splitlines()[0]
    counts = ", ".join(
        f"{name} {report[name]}" for name in ("missing", "differing", "pending") if report[name]
    )
    first = report["examples"][0] if report["examples"] else {}
    identity = "" if report["identity"] else " (and the places do not add up)"
    return f"verify: {counts}{identity}, such as {first}"


def separate(home: Path, broker: str, cassandra: str, number: int) -> Settings:
    """Settings of one of several deployments on the same servers."""
    unique = f"sabotage{number}"
    return crash_settings(home / unique, broker, cassandra).model_copy(
        update={"topic_prefix": f"{unique}-", "app_id": unique, "keyspace": unique,
                "label_wait": 3_000}
    )  # fmt: skip


def run(
    home: Path, names: Sequence[str], *, seed: int, events: int, say: Callable[[str], None]
) -> bool:
    """Play all; returns whether each ended as it must."""
    stack = Stack(home, quick=True, durable=True)
    outcomes = []
    try:
        endpoints = stack.up(free_ports=True)
        assert endpoints is not None
        points = ",".join(f"{host}:{port}" for host, port in endpoints.cassandra)
        every = CAUGHT | MISSED
        for number, name in enumerate(names):
            settings = separate(home, endpoints.broker, points, number)
            settings = settings.model_copy(update=UNDER.get(name, {}))
            settings.home.mkdir(parents=True)
            steps = every.get(name, KILLED)
            outcomes.append(play(stack, settings, name, steps, seed=seed, events=events))
            say(str(outcomes[-1]))
    finally:
        stack.wipe()
    for outcome in outcomes:
        say(str(outcome))
    return all(outcome.right for outcome in outcomes)


def main() -> int:
    """The command; returns the exit code."""
    known = {wrong.name for wrong in BREAKS}
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.sabotage",
        description=__doc__,
        epilog="names: " + "; ".join(sorted(known)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="breaks; all of those it finds if none is given"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=12_000)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"there is no break {unknown[0]!r}; there are: {'; '.join(sorted(known))}")
    end_when_told()
    names = arguments.names or [NOTHING, *CAUGHT]
    home = Path(tempfile.mkdtemp(prefix="fraudstream-sabotage-"))
    right = run(
        home,
        names,
        seed=arguments.seed,
        events=arguments.events,
        say=lambda text: print(text, flush=True),
    )
    if right:
        remove(home)
    else:
        print(f"logs and states are in {home}", file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
