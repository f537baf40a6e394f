"""A network of our own, in which each server has its own address and can be cut off: Linux network namespaces.

`in_own_network` runs this process again in a new network (`unshare`, from util-linux), where it may make further ones
without being root. Servers are run in them by `nsenter`. Cutting one off takes its link down: packets vanish, in both
directions, and no connection is closed.
"""

import os
import shutil
import subprocess
import sys
from types import TracebackType
from typing import Self

from app.devstack.cluster import Place
from app.errors import UnavailableError

#: Set in the process that has a network of its own.
_MARK = "CRASH_TEST_NETWORK"
_NEEDED = ("unshare", "nsenter", "ip")
_BRIDGE, _PREFIX = "servers", "10.99.0"
#: Last part of the first address.
_FIRST = {"kafka": 11, "cassandra": 21}


def in_own_network(module: str, arguments: list[str]) -> None:
    """Go on in a network of our own: replaces this process, once.

    Args:
        module: what is run again.
        arguments: its arguments.

    Raises:
        UnavailableError: this machine cannot do it.
    """
    if os.environ.get(_MARK):
        return
    if missing := [name for name in _NEEDED if shutil.which(name) is None]:
        msg = f"several brokers or nodes need Linux with {', '.join(missing)} (packages util-linux and iproute2)"
        raise UnavailableError(msg)
    tried = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        msg = f"several brokers or nodes need user namespaces, which this machine forbids: {tried.stderr.strip()}"
        raise UnavailableError(msg)
    sys.stdout.flush()
    command = ["unshare", "-rn", "--", sys.executable, "-m", module, *arguments]
    os.execvpe("unshare", command, {**os.environ, _MARK: "1"})  # noqa: S606


class Network:
    """Networks of servers, joined by a bridge; ours is at its end."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_PREFIX}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        _ip("link", "del", _BRIDGE)

    def place(self, server: str, number: int) -> Place:
        """Where a server is; its network is made when it is first asked for."""
        key = server, number
        host = f"{_PREFIX}.{_FIRST[server] + number - 1}"
        if key not in self._holders:
            # a network lives as long as a process is in it: one that ends when we do
            holder = subprocess.Popen(
                ["unshare", "-n", "sh", "-c", "echo; exec cat"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert holder.stdout is not None
            holder.stdout.readline()
            self._holders[key] = holder
            link, pid = self._link(*key), str(holder.pid)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid)
            _ip("link", "set", link, "master", _BRIDGE, "up")
            for words in (
                ("link", "set", "lo", "up"),
                ("addr", "add", f"{host}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                _run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", *words)
        return Place(host, ("nsenter", f"--net=/proc/{self._holders[key].pid}/ns/net"))

    def cut(self, server: str, number: int) -> None:
        """Nothing reaches it any more, and nothing that it sends arrives."""
        _ip("link", "set", self._link(server, number), "down")

    def mend(self, server: str, number: int) -> None:
        """Join it again."""
        _ip("link", "set", self._link(server, number), "up")

    @staticmethod
    def _link(server: str, number: int) -> str:
        return f"{server}{number}"


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{' '.join(command)}: {done.stderr.strip()}"
        raise UnavailableError(msg)
