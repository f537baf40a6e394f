"""What any local server is: ports, memory, configuration, JVM options, and a way to ask it."""

import re
import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import ClassVar

from app.devstack import server_processes
from app.devstack.ports import HOST
from app.errors import UsageError
from app.file_writing import write_whole

_HEAP = re.compile(r"([1-9]\d*)([mMgG])")


@dataclass(frozen=True)
class ExtraConfiguration:
    """What a test adds to a server's configuration.

    Attributes:
        lines: appended to its configuration file.
        java: further options of its Java.
        tls: how to ask it whether it serves, where its clients' port speaks TLS only.
        cluster: Kafka's cluster id, where several brokers belong together; a new data folder gets it.
    """

    lines: str = ""
    java: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    cluster: str = ""


@dataclass(frozen=True)
class LaunchSettings:
    """All that a start depends on.

    Attributes:
        home: absolute folder of the deployment.
        java: the Java to run.
        classpath: the server's jars.
        port: the clients' port; other ports follow it.
        heap: size of the Java heap, such as `512m`.
        quick: compile to fast starts rather than fast code.
        durable: what a server acknowledges outlives its being killed.
        extra: what a test adds.
        host: the address that it listens on.
    """

    home: Path
    java: Path
    classpath: list[Path]
    port: int
    heap: str
    quick: bool = False
    durable: bool = False
    extra: ExtraConfiguration = ExtraConfiguration()
    host: str = HOST


class Server(ABC):
    """One kind of server."""

    name: ClassVar[str]
    title: ClassVar[str]
    artifact: ClassVar[str]  # the jar that tells the version
    port: ClassVar[int]  # the default one
    port_count: ClassVar[int]  # how many in a row, the clients' port first
    heap: ClassVar[str]  # the default one
    overhead_mib: ClassVar[int]  # memory beside the heap

    def folder(self, home: Path) -> Path:
        """Its folder in a home."""
        return home / "servers" / self.name

    def log(self, home: Path) -> Path:
        """The file that has all it says."""
        return self.folder(home) / f"{self.name}.log"

    def ports(self, port: int) -> range:
        """All ports it listens on."""
        return range(port, port + self.port_count)

    @abstractmethod
    def answers(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
        """Whether a server of this kind, anywhere, answers a request of its protocol."""

    @abstractmethod
    def command(self, launch: LaunchSettings) -> list[str]:
        """Write the configuration, prepare the data folder, and return the command to run.

        Raises:
            UnavailableError: the data folder cannot be prepared.
        """

    def java(self, launch: LaunchSettings, *options: str) -> list[str]:
        """The part of the command that both servers share."""
        folder = self.folder(launch.home)
        temporary = folder / "tmp"  # native libraries unpack here: /tmp may forbid execution
        temporary.mkdir(parents=True, exist_ok=True)
        return [
            str(launch.java),
            *server_processes.marks(launch.home, self.name, launch.port, launch.host),
            "-server",
            f"-Xms{launch.heap}",
            f"-Xmx{launch.heap}",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:+PerfDisableSharedMem",
            f"-XX:ErrorFile={folder}/java_crash_%p.log",
            "-Djava.awt.headless=true",
            "-Djava.net.preferIPv4Stack=true",
            f"-Djava.io.tmpdir={temporary}",
            *(["-XX:TieredStopAtLevel=1"] if launch.quick else []),
            *options,
            *launch.extra.java,
            "-cp",
            ":".join(map(str, launch.classpath)),
        ]


def heap_mib(name: str, heap: str) -> int:
    """The size of a server's Java heap, MiB.

    Raises:
        UsageError: it is written in another way than `512m` or `1g`.
    """
    match = _HEAP.fullmatch(heap)
    if not match:
        msg = f"--{name}-heap {heap}: write a number and m or g, such as 512m"
        raise UsageError(msg)
    return int(match[1]) * (1024 if match[2] in "gG" else 1)


def render(
    name: str, folder: Path, extra: ExtraConfiguration | None = None, **values: object
) -> Path:
    """Write a configuration file of this package into a folder, its fields filled, with further lines at its end."""
    text = files("app.devstack").joinpath("conf", name).read_text()
    path = folder / name
    text = Template(text).substitute(values) if values else text
    write_whole(path, text + (extra.lines if extra else ""))
    return path
