"""The ordeal: workers, Kafka and Cassandra are killed under load; afterwards nothing may be amiss.

    python -m tests.crash.ordeal --seed 1 --kills 20 --events 200000

It starts a Kafka and a Cassandra of its own and two to three workers. While transactions arrive (out of
order, late, repeated, broken, in the wrong partition), it does what `schedule.py` draws from the seed.
Then it lets the stream finish and checks that

- `verify` finds nothing missing, differing or pending: every source record is in exactly one place, and
  outputs that were repeated are identical but for `scored_at`,
- the tables of the workers equal a state that a new worker rebuilds from nothing.

It exits with 0 only if all of that holds. The same seed does the same things at the same points, as far as
timing allows.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from app.devstack.stack import Stack
from app.handlers.rows import row_rules
from app.settings import Settings
from app.tools.states import TABLES, Rows, differences, heads, read_rows
from tests.crash.feed import Feed
from tests.crash.schedule import KILLS, NAMES, Act, Counts, Step, schedule
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.stack import environ_of

#: For anything that must come about by itself: group, recovery, servers.
PATIENCE_SECONDS = 240.0
#: For the stream to finish once the last thing was done.
DRAIN_SECONDS = 600.0
_POLL_SECONDS = 0.1
_SHOWN = 10


class OrdealError(Exception):
    """Something is amiss; the text says what."""


class Ordeal:
    """One run.

    Args:
        stack: its servers, running; both may be stopped and killed.
        settings: a deployment of its own.
        seed: see `schedule`; also makes the records.
        counts: how much is done.
        events: about how many records are sent.
        seconds_a_step: how long a step is thought to take at first: makes the rate of the records.
    """

    def __init__(
        self,
        stack: Stack,
        settings: Settings,
        *,
        seed: int,
        counts: Counts,
        events: int,
        seconds_a_step: float = 12.0,
    ) -> None:
        self.seed = seed
        self.done: Counter[Act | tuple[str, Act]] = Counter()
        self._stack = stack
        self._settings = settings
        self._deployment = Deployment(settings)
        self._steps = schedule(seed, counts)
        self._seconds_a_step = seconds_a_step
        self._began = time.monotonic()
        self._fleet = Fleet(environ_of(settings), settings.home / "fleet", self.say)
        self._feed = Feed(settings, seed=seed, events=events, say=self.say)
        self._outage: threading.Thread | None = None
        self._outage_error: BaseException | None = None

    def say(self, action: str, target: str) -> None:
        """One line of the timeline."""
        print(f"{time.monotonic() - self._began:7.1f} s  {action:10} {target}", flush=True)

    def run(self) -> str:
        """Do everything, check everything; returns the line of figures.

        Raises:
            OrdealError: something is amiss.
        """
        self._deployment.prepare()
        with self._fleet as fleet:
            fleet.start(*NAMES[:2])
            try:
                self._take_steps()
                self._join_outage()
                self._settle()
                self._finish_feed()
                self.say("drain", "until committed offsets reach the ends")
                self._drain()
            finally:
                self._feed.give_up()
                with suppress(Exception):
                    self._join_outage()
            owners = self._owners()
            for name in fleet.running:
                self.say("stop", f"{name} in {fleet.terminate(name):.1f} s")
        report = self._deployment.verify(timeout=0)
        self.say("verified", "nothing missing, differing or pending")
        rows = self._compare_states(owners)
        return self._figures(report, rows)

    # ------------------------------------------------------------------ steps

    def _take_steps(self) -> None:
        began = time.monotonic()
        count = len(self._steps)
        for number, step in enumerate(self._steps):
            # as many records a step, however long steps take on this machine; some steps have more
            pace = (time.monotonic() - began + self._seconds_a_step) / (number + 1)
            even = self._feed.left / (pace * (count - number))
            self._feed.rate = max(1.0, even * step.load)
            self._feed.limit = round(self._feed.total * (number + 2) / (count + 1))
            if number == 0:
                self._feed.start()
            if step.settle:
                self._settle()
            time.sleep(step.gap)
            self._check()
            self._take(step)
            self.done[step.act if step.target in (*NAMES, "all") else (step.target, step.act)] += 1

    def _take(self, step: Step) -> None:
        fleet, name = self._fleet, step.target
        self.say(step.act, f"{name} ({step.spell:.1f} s; {self._feed.sent:,} records sent)")
        if name == "cassandra":
            self._begin_outage(step)
        elif name == "kafka":
            self._join_outage()
            self._stack.stop(name, kill=step.act is Act.CRASH)
            time.sleep(step.spell)
            self._stack.start(name, PATIENCE_SECONDS)
            self.say("back", name)
        elif step.act in KILLS:
            names = fleet.running if name == "all" else [name]
            for victim in names:
                fleet.kill(victim)
            if step.act is Act.WIPE:
                fleet.wipe(name)
            time.sleep(step.spell)
            fleet.start(*names)
        elif step.act is Act.ADD:
            fleet.start(name)
        elif step.act is Act.REMOVE:
            self.say("removed", f"{name} in {fleet.terminate(name):.1f} s")
        else:
            self._make_zombie(name, step.spell)

    def _make_zombie(self, name: str, spell: float) -> None:
        """Stop it until others have its partitions and a little longer, then let it go on."""
        fleet = self._fleet
        url = fleet[name].url
        fleet.pause(name)
        try:
            others = [other for other in fleet.running if other != name]

            def moved() -> bool:
                owners = self._owners_seen_by(others)
                return owners is not None and url not in owners

            self._wait(moved, f"the partitions of {name} to move")
            time.sleep(spell)
        finally:
            fleet.resume(name)
        self.say("continue", name)

    def _begin_outage(self, step: Step) -> None:
        self._join_outage()
        self._outage = threading.Thread(target=self._outage_of_cassandra, args=(step,), daemon=True)
        self._outage.start()

    def _outage_of_cassandra(self, step: Step) -> None:
        """Workers go on, and other things happen, while Cassandra is away."""
        try:
            if step.act is Act.CRASH:
                self._stack.stop("cassandra", kill=True)
                time.sleep(step.spell)
                self._stack.start("cassandra", PATIENCE_SECONDS)
            else:
                running = self._stack.running("cassandra")
                assert running is not None, "Cassandra does not run"
                running.process.send_signal(signal.SIGSTOP)
                try:
                    time.sleep(step.spell)
                finally:
                    running.process.send_signal(signal.SIGCONT)
            self.say("back", "cassandra")
        except Exception as error:
            self._outage_error = error

    def _join_outage(self) -> None:
        if self._outage is not None:
            self._outage.join()
            self._outage = None
        if self._outage_error is not None:
            msg = f"Cassandra did not come back: {self._outage_error}"
            raise OrdealError(msg) from self._outage_error

    # ------------------------------------------------------------------ waiting

    def _check(self) -> None:
        if self._fleet.failures:
            raise OrdealError("; ".join(self._fleet.failures))
        if self._feed.error is not None:
            msg = f"the producer failed: {self._feed.error!r}"
            raise OrdealError(msg) from self._feed.error

    def _wait(self, so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not so():
            self._check()
            if time.monotonic() > deadline:
                msg = f"waited {PATIENCE_SECONDS:g} s for {what}"
                raise OrdealError(msg)
            time.sleep(_POLL_SECONDS)

    def _settle(self) -> None:
        """Wait until every worker has its partitions and their state; rows may wait for Cassandra."""

        def settled() -> bool:
            every = [self._fleet[name].reasons() for name in self._fleet.running]
            return all(
                reasons is not None and all("wait for Cassandra" in one for one in reasons)
                for reasons in every
            )

        self._wait(settled, "the workers to settle")

    def _finish_feed(self) -> None:
        self._feed.rate, self._feed.limit = 1e6, self._feed.total
        self._wait(lambda: not self._feed.is_alive(), "the producer to finish")
        self._check()
        self.say("produced", f"{self._feed.sent:,} records")

    def _drain(self) -> None:
        try:
            self._deployment.drain(DRAIN_SECONDS)
        except AssertionError as error:
            raise OrdealError(str(error)) from error
        self._check()

    # ------------------------------------------------------------------ states

    def _owners_seen_by(self, names: list[str]) -> dict[str, list[int]] | None:
        """Partitions by URL of their worker, as the first one says that answers."""
        for name in names:
            with suppress(OSError, ValueError, KeyError):
                with self._fleet[name].ask("/index.json") as answer:
                    overview: dict[str, Any] = orjson.loads(answer.read())
                owners: dict[str, list[int]] = overview["workers"]
                return owners
        return None

    def _owners(self) -> dict[int, str]:
        """Which worker has a partition, once all agree."""
        names, found = self._fleet.running, dict[int, str]()
        by_url = {self._fleet[name].url: name for name in names}

        def known() -> bool:
            owners = self._owners_seen_by(names)
            found.clear()
            for url, partitions in (owners or {}).items():
                found.update(dict.fromkeys(partitions, by_url.get(url, "")))
            return len(found) == self._settings.partitions and "" not in found.values()

        self._wait(known, "every partition to have a worker")
        return dict(found)

    def _compare_states(self, owners: dict[int, str]) -> int:
        """Compare the workers' rows with those that a new worker rebuilds; returns how many keys there are."""
        self.say("rebuild", "a new worker, from nothing")
        with Fleet(environ_of(self._settings), self._settings.home / "fleet", self.say) as fleet:
            fleet.start("fresh")
            fleet.await_ready(timeout_seconds=PATIENCE_SECONDS)
            fleet.terminate("fresh")
            rebuilt = fleet["fresh"].datadir
        rules, found, keys = row_rules(self._settings), list[str](), 0
        for table in TABLES:
            for partition, name in sorted(owners.items()):
                live = self._rows(self._fleet[name].datadir, table, partition)
                fresh = self._rows(rebuilt, table, partition)
                found += map(str, differences(f"{table}/{partition} of {name}", live, fresh, rules))
                keys += heads(live)
        if found:
            shown = "\n  ".join(found[:_SHOWN])
            msg = f"{len(found)} of {keys:,} states differ from the rebuilt ones:\n  {shown}"
            raise OrdealError(msg)
        self.say("compared", f"{keys:,} states equal the rebuilt ones")
        return keys

    def _rows(self, datadir: Path, table: str, partition: int) -> Rows:
        return read_rows(datadir, table, partition)

    def _figures(self, report: dict[str, Any], keys: int) -> str:
        done, counts = self.done, report
        kills = sum(done[act] for act in KILLS)
        servers = ", ".join(
            f"{sum(n for act, n in done.items() if isinstance(act, tuple) and act[0] == server)} {server}"
            for server in ("kafka", "cassandra")
        )
        return (
            f"seed {self.seed}: {counts['read']:,} records = {counts['scored']:,} scored"
            f" + {counts['late']:,} late + {counts['duplicate']:,} duplicate + {counts['dead']:,} dead"
            f" + {counts['moved']:,} moved; missing {counts['missing']}, differing {counts['differing']},"
            f" pending {counts['pending']}; {kills} kills ({done[Act.WIPE]} wiped), "
            f"{done[Act.ADD] + done[Act.REMOVE]} moves, {done[Act.ZOMBIE]} zombies, outages: {servers};"
            f" {len(self._fleet.restarts)} halts, {self._fleet.waits} waits for servers;"
            f" {counts['repeated_outputs']:,} repeated outputs, all identical;"
            f" {keys:,} states equal the rebuilt ones; {time.monotonic() - self._began:.0f} s"
        )


def main() -> int:
    """Run one ordeal on servers of its own; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.ordeal", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument(
        "--home", type=Path, help="folder to work in, kept; a temporary one if not given"
    )
    arguments = parser.parse_args()
    home = arguments.home or Path(tempfile.mkdtemp(prefix="fraudstream-ordeal-"))
    print(f"seed {arguments.seed}, {arguments.kills} kills, {arguments.events:,} events, in {home}")
    stack = Stack(home, quick=True, durable=True)
    clean = False
    try:
        endpoints = stack.up(free_ports=True)
        assert endpoints is not None
        settings = ordeal_settings(
            home, endpoints.broker, ",".join(f"{host}:{port}" for host, port in endpoints.cassandra)
        )
        ordeal = Ordeal(
            stack,
            settings,
            seed=arguments.seed,
            counts=Counts.of(arguments.kills),
            events=arguments.events,
        )
        try:
            print(ordeal.run())
            clean = True
        except (OrdealError, AssertionError) as error:
            ordeal.say("failed", str(error))
            print(
                f"NOT CLEAN: replay with --seed {arguments.seed} --kills {arguments.kills} "
                f"--events {arguments.events}; logs and states are in {home}",
                file=sys.stderr,
            )
    finally:
        if clean and arguments.home is None:
            stack.wipe()
            remove(home)
        else:
            stack.down()
    return 0 if clean else 1


def remove(home: Path) -> None:
    """Delete the folder of a clean run."""
    import shutil

    shutil.rmtree(home)


#: Settings under which much happens: short sessions, small blocks, evictions.
HARSH = {"session_timeout": 6_000, "block_records": 200, "max_entries_per_key": 1_500}


def ordeal_settings(home: Path, broker: str, cassandra: str) -> Settings:
    """The settings of a run on servers of its own."""
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=home,
        broker=broker,
        cassandra=cassandra,
        web_port=0,
    )
    return settings.model_copy(update=HARSH)


if __name__ == "__main__":
    sys.exit(main())
