"""One broker or node of several is away: the stream must continue meanwhile, and all be in sync afterwards."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.query import SimpleStatement

from app.cassandra.session import SCAN, connected
from app.devstack.cluster import START_SECONDS, Cluster
from app.errors import UnavailableError
from app.kafka.clients import admin
from tests.crash.schedule import MEMBERS, Act, Step
from tests.deployment import Deployment
from tests.network import Network

#: For the stream to process what was sent before: a broker or node that says nothing is given up after up to a minute,
#: and workers are killed at the same time.
_PATIENCE_SECONDS = 900.0
_POLL_SECONDS = 1.0


class Outages:
    """What is away: one broker and one node at most.

    Args:
        cluster: running.
        network: in which its servers are.
        deployment: whose stream must continue.
        say: told what happens.

    Attributes:
        continued: member and act, and the seconds until everything that was sent before was scored and stored.
    """

    def __init__(
        self, cluster: Cluster, network: Network, deployment: Deployment, say: Callable[[str, str], None]
    ) -> None:  # fmt: skip
        self.continued: list[tuple[str, float]] = []
        self._cluster = cluster
        self._network = network
        self._deployment = deployment
        self._say = say
        self._running: dict[str, threading.Thread] = {}
        self._error: Exception | None = None

    def begin(self, step: Step) -> None:
        """Take one away, and bring it back once the stream has continued; other things happen meanwhile.

        Raises:
            Exception: what an earlier outage failed with.
        """
        server = MEMBERS[step.target.partition(" ")[0]]
        if earlier := self._running.pop(server, None):
            earlier.join()
        if self._error is not None:
            raise self._error
        self._running[server] = threading.Thread(target=self._outage, args=(step,), daemon=True)
        self._running[server].start()

    def join(self) -> None:
        """Wait until all are back. Raises what an outage failed with."""
        for thread in self._running.values():
            thread.join()
        self._running.clear()
        if self._error is not None:
            raise self._error

    def figures(self) -> list[tuple[str, str]]:
        """How long the stream needed while one was away, a line per kind of outage."""
        found: dict[str, list[float]] = {}
        for name, seconds in self.continued:
            kind, _, act = name.split(" ", 2)
            found.setdefault(f"{kind} {act}", []).append(seconds)
        return [
            (name, f"{len(one)} times, the stream continued within {max(one):.0f} s")
            for name, one in sorted(found.items())
        ]

    def _outage(self, step: Step) -> None:
        try:
            kind, number = step.target.split()
            server = MEMBERS[kind]
            back = self._take_away(server, int(number), step.act)
            began = time.monotonic()
            try:
                time.sleep(step.spell)
                self._await_progress()
            finally:
                back()
            seconds = time.monotonic() - began
            self.continued.append((f"{step.target} {step.act}", seconds))
            self._say("back", f"{step.target}; the stream had continued within {seconds:.0f} s")
            self._await_whole(server)
            self._say("whole", f"all of {server}")
        except Exception as error:
            self._error = error

    def _take_away(self, server: str, number: int, act: Act) -> Callable[[], None]:
        """Returns what brings it back."""
        stack = self._cluster.stacks[server, number]
        if act is Act.CUT:
            self._network.cut(server, number)
            return lambda: self._network.mend(server, number)
        if act is Act.FREEZE:
            running = stack.running(server)
            assert running is not None, f"{server} {number} does not run"
            running.process.send_signal(signal.SIGSTOP)
            return lambda: running.process.send_signal(signal.SIGCONT)
        stack.stop(server, kill=act is Act.CRASH)
        return lambda: stack.start(server, START_SECONDS)

    def _await_progress(self) -> None:
        """Until everything that has been sent is scored and stored."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._deployment.drain(max(1.0, deadline - time.monotonic()))
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _await_whole(self, server: str) -> None:
        """Until every replica is in step: one more that is away would else be too many."""
        whole = self._all_in_step if server == "kafka" else self._all_answer
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                lacking = whole()
            except Exception as error:
                lacking = str(error) or type(error).__name__
            if not lacking:
                return
            assert time.monotonic() < deadline, f"{server} is not whole: {lacking}"
            time.sleep(_POLL_SECONDS)

    def _all_in_step(self) -> str:
        return asyncio.run(self._behind())

    async def _behind(self) -> str:
        async with admin(self._deployment.settings) as client:
            topics: list[dict[str, Any]] = await client.describe_topics()
        return ", ".join(
            f"{topic['topic']}/{one['partition']} has {len(one['isr'])} of {len(one['replicas'])} replicas in step"
            for topic in topics
            for one in topic["partitions"]
            if len(one["isr"]) < len(one["replicas"])
        )

    def _all_answer(self) -> str:
        settings = self._deployment.settings
        statement = SimpleStatement(
            f"SELECT card_id FROM {settings.keyspace}.predictions LIMIT 10",
            consistency_level=ConsistencyLevel.ALL,
        )
        with connected(settings) as session:
            for _ in range(3 * self._cluster.shape.nodes):  # each coordinator is asked
                session.execute(statement, execution_profile=SCAN)
        return ""
