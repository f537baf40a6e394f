"""Several brokers and nodes on this machine, each on an address of its own: for tests of what one of them away does."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.devstack import ports
from app.devstack.kafka import new_cluster
from app.devstack.progress import Progress
from app.devstack.server import ExtraConfiguration
from app.devstack.servers import SERVERS
from app.devstack.stack import KILL_SERVER_SECONDS, Stack
from app.devstack.status import ServerStatus
from app.errors import UsageError
from app.file_writing import explained, write_whole
from app.server_addresses import members

#: Java heap of one of several.
HEAPS = {"kafka": "256m", "cassandra": "384m"}
#: The most of each: addresses and memory of one machine.
MOST = 5
#: Several JVMs start at once on few processors.
START_SECONDS = 600.0
_KAFKA = """
# one of several
node.id={number}
controller.quorum.voters={voters}
broker.rack=rack{number}
replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector
default.replication.factor={copies}
min.insync.replicas={insync}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={insync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={insync}
"""
#: Each begins with its part of the ring: there is nothing to stream.
_CASSANDRA = """
# one of several
initial_token: "{token}"
auto_bootstrap: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "{seeds}"}}]
"""
#: What a single node leaves out: to remember the others, and to wait until it has heard of them.
_GOSSIP = (
    "-Dcassandra.load_ring_state=true",
    "-Dcassandra.ring_delay_ms=2000",
    "-Dcassandra.skip_wait_for_gossip_to_settle=-1",
)


@dataclass(frozen=True)
class Place:
    """Where a server is.

    Attributes:
        host: its address.
        enter: what runs its command there, where that is another network.
    """

    host: str
    enter: tuple[str, ...] = ()


def on_loopback(_server: str, number: int) -> Place:
    """The usual place of a broker or node: 127.0.0.1, 127.0.0.2 and so on."""
    return Place(f"127.0.0.{number}")


@dataclass(frozen=True)
class Shape:
    """What a cluster's data is made for: a later start must have the same.

    Attributes:
        id: of Kafka.
        brokers, nodes: how many.
        at: clients' port by server, the same on every address.
    """

    id: str
    brokers: int
    nodes: int
    at: dict[str, int]

    def count(self, server: str) -> int:
        """How many there are of a server."""
        return {"kafka": self.brokers, "cassandra": self.nodes}[server]

    @classmethod
    def read(cls, home: Path) -> "Shape | None":
        """That of a home; None where there is a single server of each, or none."""
        try:
            return cls(**json.loads(_file(home).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


class Cluster:
    """The brokers and nodes of one home, each a `Stack` in a folder of its own.

    Args:
        home: the deployment's folder.
        brokers, nodes: how many.
        at: clients' port by server; the default ones, or, with `free_ports`, free ones.
        free_ports: take free ports where this home has none yet.
        heaps: Java heap by server, small by default.
        progress: where steps are told.
        durable, quick: see `Stack`.
        place: where each is.

    Raises:
        UsageError: the home has a cluster of another shape.
    """

    def __init__(
        self,
        home: Path,
        brokers: int,
        nodes: int,
        *,
        at: Mapping[str, int] | None = None,
        free_ports: bool = False,
        heaps: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        durable: bool = False,
        quick: bool = False,
        place: Callable[[str, int], Place] = on_loopback,
    ) -> None:
        self.home = home.resolve()
        self._place = place
        wanted = {"kafka": brokers, "cassandra": nodes}
        self.shape = self._shape(wanted, dict(at or {}), free=free_ports)
        self._extras = dict(self._configurations())
        self.stacks: dict[tuple[str, int], Stack] = {}
        for server, number in self._extras:
            found = place(server, number)
            self.stacks[server, number] = Stack(
                members(self.home, server) / str(number),
                heaps=HEAPS | dict(heaps or {}), progress=progress, quick=quick, durable=durable,
                extras={server: self._extras[server, number]}, host=found.host, enter=found.enter,
            )  # fmt: skip

    def addresses(self, server: str) -> str:
        """Where clients find it: host:port of each, separated by commas."""
        return ",".join(f"{host}:{self.shape.at[server]}" for host in self._hosts(server))

    def up(self, servers: Sequence[str], timeout_seconds: float = START_SECONDS) -> None:
        """Start what does not run: brokers together, as one alone has no quorum; nodes one after the other.

        Raises:
            UnavailableError: see `Stack.up`.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        write_whole(_file(self.home), json.dumps(asdict(self.shape)) + "\n")

        def one(key: tuple[str, int]) -> None:
            server = key[0]
            at = {server: self.shape.at[server]}
            self.stacks[key].up([server], at=at, timeout_seconds=timeout_seconds)

        keys = [key for key in self.stacks if key[0] in servers]
        if brokers := [key for key in keys if key[0] == "kafka"]:
            with ThreadPoolExecutor(len(brokers)) as pool:
                list(pool.map(one, brokers))
        for key in keys:
            if key not in brokers:
                one(key)

    def down(
        self,
        servers: Sequence[str] = tuple(SERVERS),
        *,
        timeout_seconds: float = KILL_SERVER_SECONDS,
    ) -> list[str]:
        """Stop servers and keep their data; returns those that ran, such as `kafka 2`."""
        keys = [key for key in self.stacks if key[0] in servers]

        def one(key: tuple[str, int]) -> list[str]:
            return self.stacks[key].down([key[0]], timeout_seconds=timeout_seconds)

        with ThreadPoolExecutor(len(keys)) as pool:
            ran = list(pool.map(one, keys))
        return [
            f"{server} {number}" for (server, number), found in zip(keys, ran, strict=True) if found
        ]

    def wipe(self) -> list[Path]:
        """Stop all servers and delete their data; returns the folders that were deleted.

        Raises:
            UnavailableError: a file cannot be deleted.
        """
        for stack in self.stacks.values():
            stack.wipe()
        found = [members(self.home, server) for server in SERVERS]
        folders = [folder for folder in found if folder.exists()]
        with explained(self.home, "FRAUDSTREAM_HOME"):
            for folder in folders:
                shutil.rmtree(folder)
            _file(self.home).unlink(missing_ok=True)
        return folders

    def status(self) -> list[tuple[int, ServerStatus]]:
        """Number and state of each broker and node now."""
        return [
            (number, one)
            for (server, number), stack in self.stacks.items()
            for one in stack.status()
            if one.server == server
        ]

    def _shape(self, wanted: Mapping[str, int], at: dict[str, int], *, free: bool) -> Shape:
        known = Shape.read(self.home)
        if known is None and (self.home / "servers").exists():
            msg = f"{self.home} has the data of a single Kafka and Cassandra: run `fraudstream wipe` first"
            raise UsageError(msg)
        if known is not None:
            asked = {name: at.get(name, known.at[name]) for name in SERVERS}
            if dict(wanted) != {name: known.count(name) for name in SERVERS} or asked != known.at:
                msg = (
                    f"{self.home} has {known.brokers} brokers and {known.nodes} nodes at ports "
                    f"{known.at['kafka']} and {known.at['cassandra']}: leave the options out, or run `fraudstream wipe`"
                )
                raise UsageError(msg)
            return known
        avoid: set[int] = set()
        for name, server in SERVERS.items():
            if name not in at:
                hosts = [self._place(name, number + 1).host for number in range(wanted[name])]
                run = server.port_count
                at[name] = ports.free_run(run, avoid, hosts) if free else server.port
            avoid |= set(server.ports(at[name]))
        return Shape(new_cluster(), wanted["kafka"], wanted["cassandra"], at)

    def _hosts(self, server: str) -> list[str]:
        return [self._place(server, number + 1).host for number in range(self.shape.count(server))]

    def _configurations(self) -> Iterator[tuple[tuple[str, int], ExtraConfiguration]]:
        shape = self.shape
        voters = ",".join(
            f"{number}@{host}:{shape.at['kafka'] + 1}"
            for number, host in enumerate(self._hosts("kafka"), 1)
        )
        seeds = ",".join(f"{host}:{shape.at['cassandra'] + 1}" for host in self._hosts("cassandra"))
        for number in range(1, shape.brokers + 1):
            lines = _KAFKA.format(
                number=number, voters=voters, copies=min(3, shape.brokers), insync=min(2, shape.brokers),
            )  # fmt: skip
            yield ("kafka", number), ExtraConfiguration(lines=lines, cluster=shape.id)
        for number in range(1, shape.nodes + 1):
            token = -(1 << 63) + (1 << 64) // shape.nodes * (number - 1) + 1
            lines = _CASSANDRA.format(token=token, seeds=seeds)
            yield ("cassandra", number), ExtraConfiguration(lines=lines, java=_GOSSIP)


def cluster_of(
    home: Path, brokers: int | None = None, nodes: int | None = None, **options: Any
) -> Cluster | None:
    """The cluster of a home, or the one that is asked for; None where there is, or shall be, one server of each.

    Args:
        home: the deployment's folder.
        brokers: how many; None: as many as the home has.
        nodes: the same.
        options: of `Cluster`.

    Raises:
        UsageError: see `Cluster`.
    """
    known = Shape.read(home)
    counts = (
        brokers or (known.brokers if known else 1),
        nodes or (known.nodes if known else 1),
    )
    return None if known is None and counts == (1, 1) else Cluster(home, *counts, **options)


def _file(home: Path) -> Path:
    return home / "cluster.json"
