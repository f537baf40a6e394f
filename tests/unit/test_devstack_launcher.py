"""What is said when a server does not come up. A shell script stands in for Java."""

from pathlib import Path

import pytest

from app.devstack import server_logs
from app.devstack.launcher import Launcher, PortStolenError
from app.devstack.ports import free_run
from app.devstack.progress import ConsoleProgress
from app.devstack.server import LaunchSettings
from app.errors import UnavailableError
from app.server_addresses import read_state

STACK_TRACE = """\
INFO starting
ERROR Fatal error during startup
java.lang.IllegalStateException: cluster ids differ
        at kafka.Server.start(Server.java:1)
        ... 12 more
INFO shutting down
"""


class Scene:
    """A home whose Java does what a test says."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.steps: list[str] = []
        self.launcher = Launcher(home, ConsoleProgress(self.steps.append))

    def run(self, script: str, timeout_seconds: float = 30) -> str:
        """The error of a start with this script."""
        java = self.home / "java"
        format_only = 'case "$*" in *StorageTool*) exit 0;; esac\n'
        java.write_text("#!/bin/sh\n" + format_only + script)
        java.chmod(0o755)
        self.port = free_run(2)
        launch = LaunchSettings(self.home, java, [Path("/a.jar")], self.port, "64m")
        self.launcher.spawn("kafka", "4.1", launch)
        with pytest.raises(UnavailableError) as caught:
            self.launcher.await_started(["kafka"], 0, timeout_seconds)
        self.error = caught.value
        return str(caught.value)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_death_shows_the_lines_that_tell_why(scene: Scene) -> None:
    said = scene.run(f"cat <<'END'\n{STACK_TRACE}END\nexit 3\n")
    first, *rest = said.splitlines()
    log = scene.home / "servers/kafka/kafka.log"
    assert first == f"Kafka ended with exit code 3 while starting; {log} ends with:"
    assert rest == [
        "  ERROR Fatal error during startup",
        "  java.lang.IllegalStateException: cluster ids differ",
    ]
    assert scene.steps == [f"Starting Kafka 4.1 at 127.0.0.1:{scene.port}, log {log}"]


def test_only_this_starts_lines_count(scene: Scene) -> None:
    scene.run("echo ERROR of the first run; exit 1")
    assert "first run" not in scene.run("echo a quiet end; exit 1")


def test_a_stolen_port_is_told_from_other_deaths(scene: Scene) -> None:
    said = scene.run("echo 'Socket server failed to bind: Address already in use.'; exit 1")
    assert isinstance(scene.error, PortStolenError)
    assert f"Kafka cannot use port {scene.port}" in said
    assert "--free-ports" in said


def test_a_full_disk_and_short_memory_are_one_line(scene: Scene) -> None:
    said = scene.run("echo 'IOException: No space left on device'; exit 1")
    assert "the disk of" in said
    assert "\n" not in said
    said = scene.run("echo 'java.lang.OutOfMemoryError: Java heap space'; exit 3")
    assert "lower --kafka-heap" in said
    assert "\n" not in said


def test_a_killed_server_names_the_signal(scene: Scene) -> None:
    assert "was killed by signal 9" in scene.run("kill -9 $$")


def test_a_mute_server_ends_the_wait(scene: Scene) -> None:
    said = scene.run("echo still here; exec sleep 60", timeout_seconds=0.3)
    assert "did not answer within 0.3 s" in said
    assert "still here" in said
    record = read_state(scene.home)["kafka"]
    assert record["port"] == scene.port
    import os

    os.kill(record["pid"], 9)


def test_a_format_that_fails_is_one_line(scene: Scene) -> None:
    java = scene.home / "java"
    java.write_text("#!/bin/sh\necho 'No space left on device'; exit 1\n")
    java.chmod(0o755)
    launch = LaunchSettings(scene.home, java, [], free_run(2), "64m")
    with pytest.raises(UnavailableError, match="cannot format .*: the disk is full"):
        scene.launcher.spawn("kafka", "4.1", launch)
    assert not (scene.home / "servers/kafka/formatted").exists()


def test_long_logs_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "x" / "kafka.log"
    assert server_logs.rotate(log) == 0
    log.write_text("12345")
    assert server_logs.rotate(log) == 5
    monkeypatch.setattr(server_logs, "_KEEP_BYTES", 4)
    assert server_logs.rotate(log) == 0
    assert (tmp_path / "x" / "kafka.log.1").read_text() == "12345"
