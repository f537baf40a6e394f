"""The local Kafka: one node in KRaft mode."""

import base64
import ssl
import subprocess
import uuid
from pathlib import Path
from shutil import rmtree

from app.devstack.environment import environment
from app.devstack.server import LaunchSettings, Server, render
from app.devstack.server_probe import kafka_answers
from app.errors import UnavailableError


class Kafka(Server):
    """One Kafka node that is broker and controller."""

    name = "kafka"
    title = "Kafka"
    artifact = "kafka_2.13"
    port = 19_092
    port_count = 2  # clients, controller
    heap = "512m"
    overhead_mib = 100

    def answers(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
        """See `Server.answers`."""
        return kafka_answers(host, port, tls)

    def command(self, launch: LaunchSettings) -> list[str]:
        """See `Server.command`; a new data folder is formatted."""
        folder = self.folder(launch.home)
        logging = render("log4j2.properties", folder)
        properties = render(
            "server.properties",
            folder,
            launch.extra,
            host=launch.host,
            port=launch.port,
            controller_port=launch.port + 1,
            data=escape_property(str(folder / "data")),
        )
        java = self.java(launch, "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={logging}")
        tool = [*java, "kafka.tools.StorageTool"]
        self._format(folder, properties, tool, launch.extra.cluster or new_cluster())
        return [*java, "kafka.Kafka", str(properties)]

    def _format(self, folder: Path, properties: Path, tool: list[str], cluster: str) -> None:
        """Give a new data folder its cluster id; a format that was interrupted begins again."""
        done = folder / "formatted"
        if done.exists():
            return
        rmtree(folder / "data", ignore_errors=True)
        result = subprocess.run(
            [*tool, "format", "-t", cluster, "-c", str(properties)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            check=False,
        )
        if result.returncode:
            text = result.stdout.strip()
            if "No space left" in text:
                text = "the disk is full: free some space and try again"
            msg = f"Kafka cannot format {folder / 'data'}: {text}"
            raise UnavailableError(msg)
        done.touch()


def new_cluster() -> str:
    """A new cluster id."""
    # The leading letter keeps an id that begins with "-" from being read as an option.
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def escape_property(value: str) -> str:
    """A value for a Java properties file, which is Latin-1 and knows backslash escapes."""
    escaped = value.replace("\\", "\\\\").encode("utf-16-be")
    units = [int.from_bytes(escaped[i : i + 2]) for i in range(0, len(escaped), 2)]
    return "".join(chr(unit) if unit < 128 else f"\\u{unit:04x}" for unit in units)
