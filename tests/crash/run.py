"""The crash test: workers, Kafka and Cassandra are killed under load; afterwards nothing may be amiss.

    python -m tests.crash.run --seed 1 --kills 20 --events 200000

It starts a Kafka and a Cassandra of its own and two to three workers, which compute every feature set and score
with the model that learns from labels. While transactions arrive (out of order, late, repeated, broken, in the
wrong partition) and labels (early, late, corrected, repeated, of nothing, malformed), it does what `schedule.py`
draws from the seed, and changes models, thresholds, challengers, rules and lists (`changes.py`). Then it lets the
stream finish and checks that

- `verify` finds nothing missing, differing or pending: every source record and every label is in exactly one
  place, and outputs that were repeated are identical but for `scored_at`; model, threshold, challengers, rules and
  lists of each row are those that the changes on the log give its offset,
- the tables of the workers equal a state that a new worker rebuilds from nothing, labels included,
- no worker took more memory than is right, and the one that lived longest has no more tasks, threads and files
  than the new one.

With `--brokers 3 --nodes 3` it starts so many, each in a network of its own. One broker and one node at a time are
killed, frozen, cut off or lose their disk; everything that was sent before must be scored and stored before they come
back, and the stream must not be silent for longer than `silence.MOST_SILENT_SECONDS`.

It exits with 0 only if all of that holds. The same seed does the same things at the same points, as far as
timing allows.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson

from app.devstack.cluster import Cluster
from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, read_lock
from app.devstack.progress import NoProgress
from app.devstack.stack import Stack
from app.errors import UnavailableError
from app.settings import Settings
from tests.crash import silence, worker
from tests.crash.changes import Changes
from tests.crash.ending import Done, States, compare_states, figures, lines
from tests.crash.feed import Feed
from tests.crash.schedule import KILLS, MEMBERS, NAMES, Act, Counts, Step, schedule
from tests.crash.several import Outages
from tests.crash.watch import Sample, Watch, grown, overview, patiently, sample
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.network import Network, in_own_network
from tests.worker_settings import environ_of

#: For anything that must come about by itself: the group, recovery.
PATIENCE_SECONDS = 300.0
#: For a server to be back. Cassandra replays its commit log: minutes for some hundred thousand rows, when the
#: machine has other things to do.
SERVER_SECONDS = 1_200.0
#: For the stream to finish once the last thing was done.
DRAIN_SECONDS = 600.0
_POLL_SECONDS = 0.1
#: What a worker may stop with and be started again: it was a zombie, or met what one has left. Anything else that it
#: cannot explain is amiss, also where the restart mends it.
EXPLAINED = ("another worker wrote it", "start again")
#: The longest that one request of a worker's producer waits during a delay.
_DELAY_SECONDS = 0.4
#: Of models, thresholds, challengers, rules and lists, in a long run.
CHANGES = 100


class CrashTestError(Exception):
    """Something is amiss; the text says what."""


class CrashTest:
    """One run.

    Args:
        stack: its servers, running; both may be stopped and killed. None where there are several.
        settings: a deployment of its own.
        seed: makes the records.
        steps: what is done, see `schedule`.
        events: about how many records are sent.
        seconds_a_step: how long a step is thought to take at first: makes the rate of the records.
        wrong: name of a break (`tests/seeded_faults.py`) that workers have, to see that it is found.
        drain_seconds: for the stream to finish once the last thing was done.
        transactional: records are sent by Kafka transactions, in every codec; one in ten is aborted.
        changes: how many changes of models, thresholds, challengers, rules and lists are made.
        several: brokers and nodes in place of `stack`, running.
    """

    def __init__(
        self,
        stack: Stack | None,
        settings: Settings,
        *,
        seed: int,
        steps: Sequence[Step],
        events: int,
        seconds_a_step: float = 12.0,
        wrong: str = "",
        drain_seconds: float = DRAIN_SECONDS,
        transactional: bool = True,
        changes: int = CHANGES,
        several: tuple[Cluster, Network | None] | None = None,
    ) -> None:
        self.seed = seed
        self.done: Done = Done()
        self._stack = stack
        self._settings = settings
        self._deployment = Deployment(settings)
        self._outages = Outages(*several, self._deployment, self.say) if several else None
        self._servers = len(several[0].stacks) if several else 2
        self._racks = several[0].shape.brokers if several else 0
        self._steps = steps
        self._seconds_a_step = seconds_a_step
        self._drain_seconds = drain_seconds
        self._began = time.monotonic()
        self._delays = settings.home / "delays"
        self._fleet = Fleet(
            {**environ_of(settings), worker.DELAYS: str(self._delays), worker.BREAK: wrong},
            settings.home / "fleet",
            self.say,
            worker.__name__,
        )
        self._watch = Watch(lambda: {name: self._fleet[name] for name in self._fleet.running})
        self._feed = Feed(
            settings, seed=seed, events=events, say=self.say, transactional=transactional
        )
        self._changes = Changes(
            settings,
            seed=seed,
            count=changes,
            progress=lambda: self._feed.sent / self._feed.total,
            say=self.say,
        )
        self._undelay: threading.Timer | None = None
        self._outage: threading.Thread | None = None
        self._outage_error: BaseException | None = None

    def say(self, action: str, target: str) -> None:
        """One line of the timeline."""
        print(f"{time.monotonic() - self._began:7.1f} s  {action:10} {target}", flush=True)

    def run(self) -> str:
        """Do everything, check everything; returns the figures, one per line.

        Raises:
            CrashTestError: something is amiss.
        """
        self._deployment.prepare()
        self._changes.prepare()
        if self._outages is not None:
            silence.stamp_predictions(self._settings)
        with self._fleet as fleet:
            self._start(*NAMES[:2])
            try:
                with self._watch:
                    self._take_steps()
                    self._join_outage()
                    self._delay(0)
                    self._settle()
                    self._finish_feed()
                    self.say("drain", "until committed offsets reach the ends")
                    self._drain()
                    self._await_parked()
                    self._drain()
            finally:
                self._feed.give_up()
                self._changes.give_up()
                self._delay(0)
                with suppress(Exception):
                    self._join_outage()
            report = self._deployment.verify(timeout=0)
            self.say("verified", "nothing missing, differing or pending")
            live = {
                partition: (name, fleet[name].datadir) for partition, name in self._owners().items()
            }
            old = self._leave_the_oldest()
        states, fresh = self._compare_states(live)
        if problems := [*filter(None, [self._watch.too_much()]), *grown(old, fresh, self._servers)]:
            raise CrashTestError("; ".join(problems))
        outages = self._outage_figures()
        committed, aborted = self._feed.transactions
        return lines(
            (
                *figures(self.seed, self.done, report, states, old, fresh, self._watch),
                ("changes", self._changes.figures()),
                *outages,
                ("Kafka transactions", f"{committed:,} committed, {aborted:,} aborted"),
                ("stops by zombies", str(len(fleet.restarts))),
                ("waits for servers", str(fleet.waits)),
                ("time", f"{time.monotonic() - self._began:,.0f} s"),
            )
        )

    def _outage_figures(self) -> list[tuple[str, str]]:
        """How long the stream was silent while a broker or node was away.

        Raises:
            CrashTestError: too long.
        """
        if self._outages is None:
            return []
        past = self._outages.past
        scoring = silence.scoring_silences(self._settings)
        storing = silence.pauses(self._watch.rows_at)
        if wrong := silence.too_long(past, scoring, storing):
            raise CrashTestError(wrong)
        return silence.figures(past, scoring, storing)

    def _start(self, *names: str) -> None:
        """Start workers; of several brokers, each reads from those of its own rack."""
        for name in names:
            rack = f"rack{NAMES.index(name) % self._racks + 1}" if self._racks else None
            self._fleet.start(name, environ={"FRAUDSTREAM_KAFKA_RACK": rack} if rack else None)

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
                self._changes.start()
            if step.settle:
                self._settle()
            time.sleep(step.gap)
            self._check()
            self._take(step)
            kind = step.target.partition(" ")[0]
            server = MEMBERS.get(kind, kind)
            self.done[(server, step.act) if server in MEMBERS.values() else step.act] += 1

    def _take(self, step: Step) -> None:
        fleet, name = self._fleet, step.target
        self.say(step.act, f"{name} ({step.spell:.1f} s; {self._feed.sent:,} records sent)")
        if self._outages is not None and name.partition(" ")[0] in MEMBERS:
            self._outages.begin(step)
        elif name == "cassandra":
            self._begin_outage(step)
        elif name == "kafka":
            assert self._stack is not None
            self._join_outage()
            self._stack.stop(name, kill=step.act is Act.CRASH)
            time.sleep(step.spell)
            self._stack.start(name, SERVER_SECONDS)
            self.say("back", name)
        elif step.act is Act.DELAY:
            self._delay(_DELAY_SECONDS, step.spell)
        elif step.act is Act.STALL:
            self._feed.stall(step.spell)
        elif step.act in KILLS:
            names = list(fleet.running) if name == "all" else [name]
            for victim in names:
                fleet.kill(victim)
            if step.act is Act.WIPE:
                fleet.wipe(name)
            time.sleep(step.spell)
            self._start(*names)
        elif step.act is Act.ADD:
            self._start(name)
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

    def _delay(self, most_seconds: float, spell: float = 0.0) -> None:
        """Delay everything that workers send to Kafka, by any time up to this; other things happen meanwhile."""
        if self._undelay is not None:
            self._undelay.cancel()
            self._undelay = None
        self._delays.write_text(str(most_seconds))
        if most_seconds:
            self._undelay = threading.Timer(spell, self._delays.write_text, ("0",))
            self._undelay.daemon = True
            self._undelay.start()

    def _begin_outage(self, step: Step) -> None:
        self._join_outage()
        self._outage = threading.Thread(target=self._outage_of_cassandra, args=(step,), daemon=True)
        self._outage.start()

    def _outage_of_cassandra(self, step: Step) -> None:
        """Workers go on, and other things happen, while Cassandra is away."""
        assert self._stack is not None
        try:
            if step.act is Act.CRASH:
                self._stack.stop("cassandra", kill=True)
                time.sleep(step.spell)
                self._stack.start("cassandra", SERVER_SECONDS)
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
        if self._outages is not None:
            self._outages.join()
        if self._outage is not None:
            self._outage.join()
            self._outage = None
        if self._outage_error is not None:
            msg = f"Cassandra did not come back: {self._outage_error}"
            raise CrashTestError(msg) from self._outage_error

    # ------------------------------------------------------------------ waiting

    def _check(self) -> None:
        if self._fleet.failures:
            raise CrashTestError("; ".join(self._fleet.failures))
        if odd := unexplained(self._fleet.restarts):
            msg = f"a worker stopped with what no zombie explains: {odd[0]}"
            raise CrashTestError(msg)
        if self._feed.error is not None:
            msg = f"the producer failed: {self._feed.error!r}"
            raise CrashTestError(msg) from self._feed.error
        if self._changes.error is not None:
            msg = f"a change failed: {self._changes.error!r}"
            raise CrashTestError(msg) from self._changes.error

    def _wait(self, so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not so():
            self._check()
            if time.monotonic() > deadline:
                msg = f"waited {PATIENCE_SECONDS:g} s for {what}"
                raise CrashTestError(msg)
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
        self._wait(lambda: not self._changes.is_alive(), "the changes to be made")
        self._check()
        self.say("produced", f"{self._feed.sent:,} records")

    def _drain(self) -> None:
        try:
            self._deployment.drain(self._drain_seconds)
        except AssertionError as error:
            raise CrashTestError(str(error)) from error
        self._check()

    def _await_parked(self) -> None:
        """Wait until parked labels are applied or given up: until then the stream is not at rest."""

        def none() -> bool:
            told = [patiently(overview, self._fleet[name]) for name in self._fleet.running]
            return not any(one["labels"] for each in told for one in each["parked_labels"].values())

        self._wait(none, "no label to be parked")

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

    def _leave_the_oldest(self) -> Sample:
        """Stop all workers but the one that lived through most; what it takes once it has everything."""
        fleet = self._fleet
        lived = {name: patiently(sample, fleet[name]) for name in fleet.running}
        oldest = max(lived, key=lambda name: lived[name].rebalances)
        for name in fleet.running:
            if name != oldest:
                self.say("stop", f"{name} in {fleet.terminate(name):.1f} s ({lived[name]})")
        self._owners()
        self._settle()
        old = patiently(sample, fleet[oldest])
        self.say("stop", f"{oldest} in {fleet.terminate(oldest):.1f} s ({old})")
        return old

    def _compare_states(self, live: Mapping[int, tuple[str, Path]]) -> tuple[States, Sample]:
        """Compare the workers' rows with those that a new worker rebuilds; returns what that one takes, too."""
        self.say("rebuild", "a new worker, from nothing")
        with Fleet(environ_of(self._settings), self._settings.home / "fleet", self.say) as fleet:
            fleet.start("fresh")
            fleet.await_ready(timeout_seconds=PATIENCE_SECONDS)
            fresh = patiently(sample, fleet["fresh"])
            fleet.terminate("fresh")
            rebuilt = fleet["fresh"].datadir
        states = compare_states(self._settings, live, rebuilt)
        if states.different:
            raise CrashTestError(states.said())
        self.say("compared", f"{states.keys:,} states equal the rebuilt ones")
        return states, fresh


def unexplained(halts: Sequence[str]) -> list[str]:
    """Those last words of workers that speak of something else than what zombies do."""
    return [words for words in halts if not any(known in words for known in EXPLAINED)]


def main() -> int:
    """Run one crash test on servers of its own; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--brokers", type=int, default=1, help="Kafka brokers")
    parser.add_argument("--nodes", type=int, default=1, help="Cassandra nodes")
    parser.add_argument("--changes", type=int, default=CHANGES, help="of models, rules and so on")
    parser.add_argument(
        "--plain", action="store_true", help="send records without Kafka transactions"
    )
    parser.add_argument(
        "--home", type=Path, help="folder to work in, kept; a temporary one if not given"
    )
    arguments = parser.parse_args()
    end_when_told()
    if arguments.brokers > 1 or arguments.nodes > 1:
        ensure_jars(read_lock(), cache_dir(), NoProgress())  # a network of our own has no way out
        try:
            in_own_network("tests.crash.run", sys.argv[1:])
        except UnavailableError as error:
            print(f"crash: {error}", file=sys.stderr)
            return UnavailableError.exit_code
    home = arguments.home or Path(tempfile.mkdtemp(prefix="fraudstream-crash-"))
    print(f"seed {arguments.seed}, {arguments.kills} kills, {arguments.events:,} events, in {home}")
    members = {"broker": arguments.brokers, "node": arguments.nodes}
    clean = False
    with ExitStack() as around:
        stack, several, settings = _started(around, home, members)
        crash_test = CrashTest(
            stack,
            settings,
            several=several,
            seed=arguments.seed,
            steps=schedule(
                arguments.seed, Counts.of(arguments.kills), members if several else None
            ),
            events=arguments.events,
            transactional=not arguments.plain,
            changes=arguments.changes,
        )
        try:
            print(crash_test.run())
            clean = True
        except (CrashTestError, AssertionError) as error:
            crash_test.say("failed", str(error))
            print(
                f"NOT CLEAN: replay with --seed {arguments.seed} --kills {arguments.kills} "
                f"--events {arguments.events} --changes {arguments.changes} --brokers {arguments.brokers} "
                f"--nodes {arguments.nodes}; logs and states are in {home}",
                file=sys.stderr,
            )
    if clean and arguments.home is None:
        remove(home)
    return 0 if clean else 1


def _started(
    around: ExitStack, home: Path, members: Mapping[str, int]
) -> tuple[Stack | None, tuple[Cluster, Network | None] | None, Settings]:
    """Servers that run until `around` ends, and a deployment on them."""
    brokers, nodes = members["broker"], members["node"]
    if brokers == nodes == 1:
        stack = Stack(home, quick=True, durable=True)
        around.callback(stack.down)
        endpoints = stack.up(free_ports=True)
        assert endpoints is not None
        points = ",".join(f"{host}:{port}" for host, port in endpoints.cassandra)
        return stack, None, crash_settings(home, endpoints.broker, points)
    network = around.enter_context(Network())
    cluster = Cluster(home, brokers, nodes, place=network.place, quick=True, durable=True)
    around.callback(cluster.down)
    cluster.up(("kafka", "cassandra"))
    settings = crash_settings(home, cluster.addresses("kafka"), cluster.addresses("cassandra"))
    return None, (cluster, network), settings.model_copy(update=replicated(brokers, nodes))


def remove(home: Path) -> None:
    """Delete the folder of a clean run."""
    shutil.rmtree(home)


def end_when_told() -> None:
    """Let SIGTERM end this process as Ctrl-C does: servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


#: Settings under which much happens: short sessions, small blocks, evictions.
HARSH: dict[str, Any] = {
    "session_timeout": 6_000,
    "block_records": 200,
    "max_entries_per_key": 1_500,
    "features": ("basic", "handbook", "engineered", "label_free"),
    "model": "engineered",
    "label_wait": 10_000,
}


def replicated(brokers: int, nodes: int) -> dict[str, Any]:
    """Settings with which one of several brokers and nodes may be away."""
    copies = min(3, brokers)
    return {
        "replication": copies,
        "min_insync": min(2, copies),
        "cassandra_replication": min(3, nodes),
        "cassandra_datacenter": "datacenter1",
    }


def crash_settings(home: Path, broker: str, cassandra: str) -> Settings:
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
