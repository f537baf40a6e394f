"""Filling the cache, against a Maven repository of this process."""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.devstack import jar_downloads
from app.devstack.jar_downloads import ensure_jars, repository
from app.devstack.jar_lock import Jar
from app.devstack.progress import NoProgress
from app.errors import UnavailableError
from tests.local_http_server import LocalHttpServer, QuietHandler

CONTENT = {"org.x:one:1": b"one" * 1_000, "org.x:two:2:linux": b"two" * 2_000}
LOCK = {
    "kafka": [
        Jar(coordinate, len(data), hashlib.sha256(data).hexdigest())
        for coordinate, data in CONTENT.items()
    ]
}
ONE, TWO = LOCK["kafka"]


@dataclass
class Repository:
    url: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)

    def jars_asked(self) -> list[str]:
        return sorted(path for path in self.asked if path.endswith(".jar"))


@pytest.fixture
def maven() -> Iterator[Repository]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 -- a name of http.server
            found.asked.append(self.path)
            data = found.files.get(self.path)
            self.answer(404 if data is None else 200, data or b"")

    files = {f"/m/{jar.path}": CONTENT[jar.coordinate] for jar in LOCK["kafka"]}
    with LocalHttpServer(Handler) as server:
        found = Repository(f"http://127.0.0.1:{server.port}/m", files)
        yield found


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without ~/.m2, and no patience between tries."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FRAUDSTREAM_MAVEN_URL", raising=False)
    monkeypatch.setattr(jar_downloads.time, "sleep", lambda _seconds: None)


@pytest.fixture
def served(maven: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("FRAUDSTREAM_MAVEN_URL", maven.url + "/")
    return maven


def test_a_cold_cache_is_filled_and_a_warm_one_asks_nobody(
    served: Repository, tmp_path: Path
) -> None:
    classpath = ensure_jars(LOCK, tmp_path / "cache", NoProgress())["kafka"]
    assert [path.read_bytes() for path in classpath] == list(CONTENT.values())
    asked = len(served.asked)
    assert ensure_jars(LOCK, tmp_path / "cache", NoProgress())["kafka"] == classpath
    assert len(served.asked) == asked
    assert not list((tmp_path / "cache").glob("incoming-*"))


@pytest.mark.parametrize("damage", [b"", b"half", b"x" * len(CONTENT["org.x:one:1"])])
def test_a_damaged_jar_of_the_cache_is_fetched_again(
    served: Repository, tmp_path: Path, damage: bytes
) -> None:
    path = ensure_jars(LOCK, tmp_path / "cache", NoProgress())["kafka"][0]
    path.write_bytes(damage)
    served.asked.clear()
    ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert path.read_bytes() == CONTENT["org.x:one:1"]
    assert served.jars_asked() == [f"/m/{ONE.path}"]


def test_a_download_that_stays_damaged_is_named(
    served: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.files[f"/m/{TWO.path}"] = b"evil"
    with pytest.raises(UnavailableError, match=r"org\.x:two:2:linux from 127\.0\.0\.1 is damaged"):
        ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert served.jars_asked().count(f"/m/{TWO.path}") == 3
    assert not (tmp_path / "cache" / "jars" / TWO.path).exists()
    assert capsys.readouterr().err == ""


def test_a_repository_without_the_jar_is_named(served: Repository, tmp_path: Path) -> None:
    del served.files[f"/m/{ONE.path}"]
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1 does not have org\.x:one:1"):
        ensure_jars(LOCK, tmp_path / "cache", NoProgress())


def test_no_network_is_said_without_the_password_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_MAVEN_URL", "http://me:secret@127.0.0.1:9/maven")
    with pytest.raises(UnavailableError, match="is there a network") as caught:
        ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_users_maven_repository_is_read_first(served: Repository, tmp_path: Path) -> None:
    for jar, data in ((ONE, CONTENT["org.x:one:1"]), (TWO, b"truncated")):
        path = tmp_path / "home/.m2/repository" / jar.path
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert served.jars_asked() == [f"/m/{TWO.path}"]  # the truncated one is not taken


def test_two_at_once_download_once(served: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(ensure_jars, LOCK, tmp_path / "cache", NoProgress()) for _ in range(4)]
        assert len({str(run.result()) for run in runs}) == 1
    assert served.jars_asked() == sorted(f"/m/{jar.path}" for jar in LOCK["kafka"])


def test_what_a_killed_process_left_is_removed(served: Repository, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "incoming-old"
    left.mkdir(parents=True)
    ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert not left.exists()


def test_too_little_disk_is_said_before_the_download(
    served: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
    with pytest.raises(UnavailableError, match="nearly full: the download needs 64 MiB, 1 MiB are"):
        ensure_jars(LOCK, tmp_path / "cache", NoProgress())
    assert served.asked == []


def test_a_disk_that_fills_up_is_one_line(
    served: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UnavailableError, match="the disk is full: free some space"):
        ensure_jars(LOCK, tmp_path / "cache", NoProgress())


SETTINGS = """<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors>
<mirror><mirrorOf>{of}</mirrorOf><url>https://${{env.MIRROR_HOST}}/maven/</url>{more}</mirror>
</mirrors></settings>"""


@pytest.mark.parametrize(
    ("of", "more", "used"),
    [
        ("central", "", True),
        ("*", "", True),
        ("external:*", "", True),
        ("other, central", "", True),
        ("other", "", False),
        ("*,!central", "", False),
        ("*", "<blocked>true</blocked>", False),
    ],
)
def test_a_mirror_of_the_maven_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, more: str, used: bool
) -> None:
    monkeypatch.setenv("MIRROR_HOST", "mirror.example")
    file = tmp_path / "home/.m2/settings.xml"
    file.parent.mkdir(parents=True)
    assert repository() is None
    file.write_text(SETTINGS.format(of=of, more=more))
    assert repository() == ("https://mirror.example/maven" if used else None)
    monkeypatch.setenv("FRAUDSTREAM_MAVEN_URL", "https://own.example")
    assert repository() == "https://own.example"


def test_maven_settings_that_are_not_xml(tmp_path: Path) -> None:
    file = tmp_path / "home/.m2/settings.xml"
    file.parent.mkdir(parents=True)
    file.write_text("<settings>")
    with pytest.raises(UnavailableError, match="is not XML"):
        repository()
