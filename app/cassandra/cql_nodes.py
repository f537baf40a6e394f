"""The nodes that take rows: which replicas a row belongs to, and a link to each node that is kept alive."""

import asyncio
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

from cassandra.cluster import Session
from cassandra.policies import HostDistance

from app.cassandra.cql_connection import CqlLink, LinkError, LinkOptions, OnAnswer, open_link
from app.cassandra.cql_wire import ServerError
from app.cassandra.credentials import password, tls_context
from app.cassandra.packed_rows import PackedTable
from app.cassandra.session import READ, consistency
from app.cassandra.write_retries import REFUSED_FOR_EVER
from app.settings import Settings

#: Between attempts to reach a node, seconds: the first, and the most.
_BACKOFF_SECONDS = (0.1, 5.0)

Address = tuple[str, int]
RoutingKey = Callable[[bytes], bytes]


class ReplicaMap:
    """Which nodes hold a row, as the driver's session knows the cluster.

    Attributes:
        nodes: the nodes of our datacenter.
        groups: sets of replicas; `split` gives an index. One group where all rows share their replicas.
    """

    def __init__(self, session: Session, keyspace: str, routing_key: RoutingKey) -> None:
        self.nodes: list[Address] = []
        self.groups: list[tuple[Address, ...]] = [()]
        self._session = session
        self._keyspace = keyspace
        self._routing_key = routing_key
        self._seen: Any = None
        self._ring: list[int] = []
        self._group_at: list[int] = []
        self._hash: Callable[[bytes], int] = hash
        self.refresh()

    def refresh(self) -> bool:
        """Look at the cluster again; True if it has changed."""
        metadata = self._session.cluster.metadata
        policy = self._session.get_execution_profile(READ).load_balancing_policy
        hosts = [h for h in metadata.all_hosts() if policy.distance(h) == HostDistance.LOCAL]
        nodes = sorted((host.endpoint.address, host.endpoint.port) for host in hosts)
        tokens = metadata.token_map
        replicas = None
        if tokens is not None and tokens.ring:
            tokens.get_replicas(
                self._keyspace, tokens.ring[0]
            )  # works a keyspace out when first asked
            replicas = tokens.tokens_to_hosts_by_ks.get(self._keyspace)
        seen = self._seen
        if seen is not None and seen[0] == nodes and seen[1] is tokens and seen[2] is replicas:
            return False
        self._seen, self.nodes = (nodes, tokens, replicas), nodes
        self.groups, self._ring, self._group_at = [tuple(nodes)], [], []
        if tokens is None or replicas is None or len(nodes) < 2:
            return True
        local = {(host.endpoint.address, host.endpoint.port) for host in hosts}
        numbers: dict[tuple[Address, ...], int] = {}
        for token in tokens.ring:
            addresses = (
                (h.endpoint.address, h.endpoint.port)
                for h in tokens.get_replicas(self._keyspace, token)
            )
            group = tuple(sorted(local.intersection(addresses)))
            self._ring.append(token.value)
            self._group_at.append(numbers.setdefault(group, len(numbers)))
        self.groups = list(numbers)
        self._hash = tokens.token_class.hash_fn
        return True

    def split(self, rows: list[bytes]) -> Iterable[tuple[int, list[bytes]]]:
        """Rows by the number of their group."""
        if len(self.groups) == 1:
            return [(0, rows)]
        by_group: dict[int, list[bytes]] = {}
        ring, group_at, token_of = self._ring, self._group_at, self._hash
        routing_key = self._routing_key
        for row in rows:
            # a token belongs to the first position at or after it, past the last one to the first
            place = bisect_left(ring, token_of(routing_key(row))) % len(ring)
            by_group.setdefault(group_at[place], []).append(row)
        return by_group.items()


class NodeLinks:
    """Keeps a link to each node.

    Args:
        session: knows the cluster.
        settings: how to speak to it.
        table: where the rows go.
        on_answer: see `CqlLink`.
        on_up: a node takes batches (again).
        on_lost: a node is gone; gets the reason and the tags of batches that were not answered.
        on_refused: the statement cannot be prepared, ever; gets the server's words.
        rng: jitter.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        table: PackedTable,
        *,
        on_answer: OnAnswer,
        on_up: Callable[[], None],
        on_lost: Callable[[str, list[Any]], None],
        on_refused: Callable[[ServerError], None],
        rng: random.Random,
    ) -> None:
        self.map = ReplicaMap(session, settings.keyspace, table.routing_key)
        self.links: dict[Address, CqlLink] = {}
        self._on_answer = on_answer
        self._on_up = on_up
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._rng = rng
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._renewals: set[asyncio.Task[None]] = set()
        self._access = LinkOptions(
            user=settings.cassandra_username or "",
            password=password(settings),
            tls=tls_context(settings),
            statement=table.insert(settings.keyspace, settings.ttl_seconds),
            columns=len(table.columns),
            compression=settings.cassandra_compression,
            unencrypted=settings.allow_unencrypted_credentials,
        )
        self.consistency = consistency(settings)

    def tend(self) -> None:
        """Start links to nodes that have none, drop those to nodes that left the cluster."""
        if not self.map.refresh() and self._tasks:
            return
        for address in self.map.nodes:
            if address not in self._tasks:
                self._tasks[address] = asyncio.create_task(self._keep(address))
        for address in self._tasks.keys() - set(self.map.nodes):
            self._tasks.pop(address).cancel()

    def pick(self, group: int) -> CqlLink | None:
        """The least busy link to a replica, else to any node; None when no node can be written to."""
        replicas = self.map.groups[group] if group < len(self.map.groups) else ()
        ready = [link for a in replicas if (link := self.links.get(a)) is not None and link.ready]
        if not ready:
            ready = [link for link in self.links.values() if link.ready]
        if len(ready) < 2:
            return ready[0] if ready else None
        return min(ready, key=lambda link: len(link.pending))

    def prepare_again(self) -> None:
        """Let every link prepare its statement anew: a node has forgotten it (after ALTER TABLE, say)."""
        for link in self.links.values():
            if link.ready:
                link.ready = False
                task = asyncio.create_task(self._renew(link))
                self._renewals.add(task)
                task.add_done_callback(self._renewals.discard)

    async def close(self) -> None:
        """Drop every link."""
        tasks = [*self._tasks.values(), *self._renewals]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep(self, address: Address) -> None:
        first, most = _BACKOFF_SECONDS
        delay = first
        while True:
            try:
                link = await open_link(*address, self._access, self._on_answer)
            except LinkError as error:
                self._refuse(error)
                self._on_lost(f"{address[0]}:{address[1]}: {error}", [])
            else:
                delay = first
                await self._serve(address, link)
            await asyncio.sleep(delay * self._rng.uniform(0.5, 1.0))
            delay = min(most, delay * 2)

    async def _serve(self, address: Address, link: CqlLink) -> None:
        self.links[address] = link
        try:
            self._on_up()
            await link.closed
        finally:  # also when the node left the cluster, and this task is cancelled
            link.abort("the node left the cluster")
            del self.links[address]
            unanswered = [tag for tag, _ in link.pending.values()]
            self._on_lost(f"{address[0]}:{address[1]}: {link.closed.result()}", unanswered)

    async def _renew(self, link: CqlLink) -> None:
        try:
            await link.prepare(self._access)
        except LinkError as error:
            self._refuse(error)
            link.abort(str(error))
        else:
            self._on_up()

    def _refuse(self, error: LinkError) -> None:
        """One node alone may lag behind with the schema; if no other takes rows either, it is final."""
        failure = error.failure
        if failure is None or failure.code not in REFUSED_FOR_EVER:
            return
        if not any(link.ready for link in self.links.values()):
            self._on_refused(failure)
