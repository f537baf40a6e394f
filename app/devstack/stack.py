"""Starting, stopping and watching the local servers of one home."""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.devstack import ports, recorded_addresses, server_processes
from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, read_lock, version_of
from app.devstack.java import find_java
from app.devstack.launcher import Launcher, PortStolenError
from app.devstack.progress import NoProgress, Progress
from app.devstack.server import ExtraConfiguration, LaunchSettings, heap_mib
from app.devstack.server_processes import RunningServer
from app.devstack.servers import SERVERS
from app.devstack.status import ServerStatus, status_of
from app.errors import UnavailableError, UsageError
from app.file_writing import explained
from app.folder_locks import one_at_a_time, require_unlocked
from app.machine_requirements import MIB, available_memory, require_disk, require_memory
from app.server_addresses import Endpoints, read_state

ALL = tuple(SERVERS)
#: A node with much to replay from its commit log takes long; a broken one ends by itself.
START_SECONDS = 180.0
#: Until a server that was asked to stop is killed: both stop within two seconds; under load they take time to flush.
KILL_SERVER_SECONDS = 30.0
#: Room for commit logs, segments and the first data.
_START_DISK = 512 * MIB


class Stack:
    """The local Kafka and Cassandra of one home. Commands of several processes take turns.

    Args:
        home: the deployment's folder; servers live below `servers/`, addresses in `stack.json`.
        heaps: Java heap by server, such as {"kafka": "512m"}; defaults for the rest.
        progress: where steps are told; nowhere by default.
        cache: folder of the jars; by default the one that all homes share.
        quick: start with half the CPU and run at about half the speed: for tests.
        durable: Cassandra acknowledges a row when it is on disk. Otherwise, as by its own default,
            a killed one forgets up to 100 ms of acknowledged rows; in return it is twice as fast.
        extras: what is added to the configuration of servers, by name: for clusters and tests.
        host: the address that its servers listen on.
        enter: what runs a server's command elsewhere, such as in another network.

    Raises:
        UsageError: the home or a heap cannot be used.
    """

    def __init__(
        self,
        home: Path,
        *,
        heaps: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        cache: Path | None = None,
        quick: bool = False,
        durable: bool = False,
        extras: Mapping[str, ExtraConfiguration] | None = None,
        host: str = ports.HOST,
        enter: Sequence[str] = (),
    ) -> None:
        self.home = home.resolve()  # however it was reached: servers are recognised by it
        self._heaps = {name: server.heap for name, server in SERVERS.items()} | dict(heaps or {})
        self._progress = progress or NoProgress()
        self._quick = quick
        self._durable = durable
        self._extras = dict(extras or {})
        self._cache = (cache or cache_dir()).absolute()
        self._host = host
        self._launcher = Launcher(self.home, self._progress, enter)
        for name, heap in self._heaps.items():
            heap_mib(name, heap)
        for folder in (self.home, self._cache):
            if set(",:") & set(str(folder)):
                msg = f"{folder}: the path of local servers must not contain a comma or colon"
                raise UsageError(msg)

    def up(
        self,
        servers: Iterable[str] = ALL,
        *,
        free_ports: bool = False,
        at: Mapping[str, int] | None = None,
        timeout_seconds: float = START_SECONDS,
    ) -> Endpoints | None:
        """Start what does not run yet, and wait until all of it answers.

        Args:
            servers: names, both by default.
            free_ports: take free ports where this home's data has none yet, or they are taken.
            at: clients' port by server, in place of those that this home last had, or the default.
            timeout_seconds: for an answer.

        Returns:
            Addresses of both servers, or None when one of the two was never asked for.

        Raises:
            UnavailableError: anything that keeps them from running. What this call started is
                stopped again.
        """
        names = list(servers)
        with self._turn():
            todo = []
            for name in names:
                if running := self.running(name):
                    self._launcher.await_running(name, running, timeout_seconds)
                else:
                    todo.append(name)
            for attempt in range(3):
                try:
                    self._start(
                        todo, self._choose_ports(todo, free_ports, at or {}), timeout_seconds
                    )
                    break
                except PortStolenError:  # between our look and the server's start
                    if not free_ports or attempt == 2:
                        raise
        return self.endpoints()

    def start(self, server: str, timeout_seconds: float = START_SECONDS) -> None:
        """Start one server again where it was, after `stop` or a crash.

        Raises:
            UnavailableError: it was never started here, or cannot be.
        """
        with self._turn():
            if running := self.running(server):
                self._launcher.await_running(server, running, timeout_seconds)
                return
            record = read_state(self.home).get(server)
            if not record:
                msg = f"{SERVERS[server].title} was never started in {self.home}: run `fraudstream up`"
                raise UnavailableError(msg)
            self._start([server], {server: int(record["port"])}, timeout_seconds)

    def stop(self, server: str, *, kill: bool = False) -> None:
        """Stop one server and keep its address, so that `start` brings it back to its clients.

        Args:
            server: its name.
            kill: as a crash would, with SIGKILL.
        """
        with self._turn():
            if running := self.running(server):
                if kill:
                    server_processes.kill(running)
                else:
                    self._stop([server], KILL_SERVER_SECONDS)
            recorded_addresses.mark_stopped(self.home, server)

    def down(
        self, servers: Iterable[str] = ALL, *, timeout_seconds: float = KILL_SERVER_SECONDS
    ) -> list[str]:
        """Stop servers and forget their addresses; data stays.

        Args:
            servers: names, both by default.
            timeout_seconds: after which one that has not ended is killed.

        Returns:
            Names of those that ran.
        """
        names = list(servers)
        if not self.home.exists():  # nobody to take turns with, and no folder to make
            return self._stop(names, timeout_seconds)
        with self._turn():
            stopped = self._stop(names, timeout_seconds)
            recorded_addresses.forget(self.home, names)
        return stopped

    def wipe(self) -> list[Path]:
        """Stop the servers and delete their data and the state of workers, which depends on it.

        Returns:
            The folders that were deleted.

        Raises:
            UnavailableError: a worker still uses its state, or a file cannot be deleted.
        """
        if not self.home.exists():
            self._kill_all()
            return []
        with self._turn():
            workers = self.home / "workers"
            require_unlocked(workers)
            self._kill_all()
            recorded_addresses.forget(self.home, ALL)
            recorded_addresses.forget_ports(self.home)
            folders = [path for path in (self.home / "servers", workers) if path.exists()]
            for folder in folders:
                shutil.rmtree(folder)
            return folders

    def status(self) -> list[ServerStatus]:
        """State of both servers now."""
        return [status_of(self.home, name, self.running(name)) for name in SERVERS]

    def running(self, server: str) -> RunningServer | None:
        """The live process of a server, found by its command line."""
        pid = read_state(self.home).get(server, {}).get("pid")
        return server_processes.find(self.home, server, pid if isinstance(pid, int) else None)

    def endpoints(self) -> Endpoints | None:
        """Recorded addresses of both servers, or None when one is not recorded."""
        state = read_state(self.home)
        if not state.keys() >= SERVERS.keys():
            return None
        kafka, cassandra = state["kafka"], state["cassandra"]
        return Endpoints(
            f"{kafka['host']}:{kafka['port']}", [(cassandra["host"], cassandra["port"])]
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for other commands in this home; errors of its files become one line."""
        lock = self.home / "stack.lock"
        with (
            explained(self.home, "FRAUDSTREAM_HOME"),
            one_at_a_time(
                lock,
                lambda: self._progress.step(f"Another command is using {self.home}: waiting"),
            ),
        ):
            yield

    def _choose_ports(self, names: list[str], free: bool, at: Mapping[str, int]) -> dict[str, int]:
        chosen: dict[str, int] = {}
        avoid: set[int] = set()
        known = recorded_addresses.known_ports(self.home)
        for name in names:
            server = SERVERS[name]
            if name in at:
                chosen[name] = at[name]
            elif not free:
                chosen[name] = known.get(name, server.port)
            elif name in known and all(
                ports.is_free(port, self._host) for port in server.ports(known[name])
            ):
                chosen[name] = known[name]
            else:
                chosen[name] = ports.free_run(server.port_count, avoid, [self._host])
            avoid |= set(server.ports(chosen[name]))
        return chosen

    def _start(self, names: list[str], at: Mapping[str, int], timeout_seconds: float) -> None:
        """Start servers that do not run, and wait for their answers; all or none."""
        if not names:
            return
        for name in names:
            ports.require_free(SERVERS[name].ports(at[name]), SERVERS[name].title, name, self._host)
        needed = sum(
            heap_mib(name, self._heaps[name]) + SERVERS[name].overhead_mib for name in names
        )
        require_memory(needed * MIB, available_memory())
        require_disk(self.home, _START_DISK, "a start")
        java = find_java()
        self._progress.step(f"Java {java.version} ({java.found_in})")
        lock = read_lock()
        classpaths = ensure_jars({name: lock[name] for name in names}, self._cache, self._progress)
        began = time.monotonic()
        try:
            for name in reversed(names):  # Cassandra takes longer: Kafka is formatted meanwhile
                version = version_of(lock[name], SERVERS[name].artifact)
                launch = LaunchSettings(
                    home=self.home,
                    java=java.path,
                    classpath=classpaths[name],
                    port=at[name],
                    heap=self._heaps[name],
                    quick=self._quick,
                    durable=self._durable,
                    extra=self._extras.get(name, ExtraConfiguration()),
                    host=self._host,
                )
                self._launcher.spawn(name, version, launch)
            self._launcher.await_started(names, began, timeout_seconds)
        except BaseException:  # also an interruption: nothing half-started stays behind
            self._stop(names, 5)
            recorded_addresses.forget(self.home, names)
            raise

    def _kill_all(self) -> None:
        """End servers whose data goes with them: nothing to flush."""
        for name in ALL:
            if running := self.running(name):
                self._progress.step(f"Stopping {SERVERS[name].title} (pid {running.pid})")
                server_processes.kill(running)

    def _stop(self, names: Sequence[str], timeout_seconds: float) -> list[str]:
        found = {name: running for name in names if (running := self.running(name))}
        for name, running in found.items():
            self._progress.step(f"Stopping {SERVERS[name].title} (pid {running.pid})")
        killed = server_processes.stop(list(found.values()), timeout_seconds)
        for name, running in found.items():
            if running in killed:
                self._progress.step(
                    f"{SERVERS[name].title} did not stop within {timeout_seconds:g} s: killed"
                )
        return list(found)
