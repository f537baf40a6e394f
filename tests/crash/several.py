"""One broker or node of several is away: the stream must continue meanwhile, and all be in sync afterwards."""

import asyncio
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.query import SimpleStatement

from app.cassandra.session import SCAN, connected
from app.devstack.cluster import START_SECONDS, Cluster
from app.devstack.servers import SERVERS
from app.devstack.stack import Stack
from app.errors import UnavailableError
from app.kafka.clients import admin
from app.settings import Settings
from tests.crash.schedule import MEMBERS, Act, Step
from tests.crash.silence import Outage
from tests.deployment import Deployment
from tests.network import Network

#: Against hangs, for the stream to process what was sent before, and for all replicas to be in sync again. How long the
#: stream may be silent is another limit (`silence.py`).
_PATIENCE_SECONDS = 900.0
_POLL_SECONDS = 1.0
#: A row has some kilobytes.
_PAGE_ROWS = 500


class Outages:
    """What is away: one broker and one node at most.

    Args:
        cluster: running.
        network: in which its servers are; None: none is cut off.
        deployment: whose stream must continue.
        say: told what happens.

    Attributes:
        past: those that are over.
    """

    def __init__(
        self,
        cluster: Cluster,
        network: Network | None,
        deployment: Deployment,
        say: Callable[[str, str], None],
    ) -> None:
        self.past: list[Outage] = []
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

    def _outage(self, step: Step) -> None:
        try:
            kind, number = step.target.split()
            server = MEMBERS[kind]
            began = time.time()
            back = self._take_away(server, int(number), step.act)
            try:
                time.sleep(step.spell)
                self._await_progress()
            finally:
                back()
            self._say("back", f"{step.target}, after {time.time() - began:.0f} s")
            self._await_whole(server)
            self.past.append(Outage(began, time.time(), f"{kind} {step.act}"))
            self._say("whole", f"all of {server}")
        except Exception as error:
            self._error = error

    def _take_away(self, server: str, number: int, act: Act) -> Callable[[], None]:
        """Returns what brings it back."""
        stack = self._cluster.stacks[server, number]
        if act is Act.CUT:
            network = self._network
            assert network is not None, "there is no network to cut"
            network.cut(server, number)
            return lambda: network.mend(server, number)
        if act is Act.FREEZE:
            running = stack.running(server)
            assert running is not None, f"{server} {number} does not run"
            running.process.send_signal(signal.SIGSTOP)
            return lambda: running.process.send_signal(signal.SIGCONT)
        stack.stop(server, kill=act in (Act.CRASH, Act.LOSE))
        if act is Act.LOSE:
            return lambda: begin_again(stack, server)
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
        whole = self._all_in_step if server == "kafka" else self._repair
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
        return asyncio.run(out_of_sync(self._deployment.settings))

    def _repair(self) -> str:
        """Give each replica every row, as `nodetool repair` does: a read from all writes rows to those that lack them.

        A node that was frozen or slow lacks rows. If one of the two others then loses its disk, a row is on one node
        only, and the new disk may be filled from the node that lacks it: a quorum may miss the row until the repair.
        """
        settings = self._deployment.settings
        with connected(settings) as session:
            tables = session.cluster.metadata.keyspaces[settings.keyspace].tables
            for table in tables:
                statement = SimpleStatement(
                    f"SELECT * FROM {settings.keyspace}.{table}",  # noqa: S608
                    consistency_level=ConsistencyLevel.ALL,
                    fetch_size=_PAGE_ROWS,
                )
                for _ in session.execute(statement, execution_profile=SCAN):
                    pass
        return ""


async def out_of_sync(settings: Settings) -> str:
    """The partitions whose replicas are not all in sync, for people; empty if there are none."""
    async with admin(settings) as client:
        topics: list[dict[str, Any]] = await client.describe_topics()
    return ", ".join(
        f"{topic['topic']}/{one['partition']} has {len(one['isr'])} of {len(one['replicas'])} replicas in step"
        for topic in topics
        for one in topic["partitions"]
        if len(one["isr"]) < len(one["replicas"])
    )


def begin_again(stack: Stack, server: str) -> None:
    """Start a stopped broker or node of several on an empty disk, as docs/operations.md says."""
    folder = SERVERS[server].folder(stack.home)
    shutil.rmtree(folder / "data")
    if server == "kafka":
        (
            folder / "formatted"
        ).unlink()  # so it is formatted, with the same ids, and copies its partitions
        stack.start(server, START_SECONDS)
        return
    with _replacing(stack):
        stack.start(server, START_SECONDS)


@contextmanager
def _replacing(stack: Stack) -> Iterator[None]:
    """Let a node take the place of the one that had its address, and stream its rows from the others."""
    usual = stack._extras["cassandra"]
    host = stack._host
    lines = []
    for line in usual.lines.splitlines():
        if line.startswith("initial_token:"):  # it takes those of the node that it replaces
            continue
        own = f"{host}:"  # a seed does not stream
        before, seeds, after = line.partition('seeds: "')
        listed, quote, rest = after.partition('"')
        others = ",".join(one for one in listed.split(",") if not one.startswith(own))
        changed = f"{before}{seeds}{others}{quote}{rest}"
        lines.append(changed.replace("auto_bootstrap: false", "auto_bootstrap: true"))
    option = f"-Dcassandra.replace_address_first_boot={host}"
    stack._extras["cassandra"] = replace(
        usual, lines="\n".join(lines) + "\n", java=(*usual.java, option)
    )
    try:
        yield
    finally:
        stack._extras["cassandra"] = usual
