"""The lock file and the cache of jars."""

import hashlib
import re
from pathlib import Path

import pytest

from app.devstack.jar_lock import Jar, cache_dir, parse_lock, read_lock, version_of
from app.errors import UnavailableError


def test_the_shipped_lock_is_complete() -> None:
    lock = read_lock()
    assert set(lock) == {"kafka", "cassandra"}
    assert version_of(lock["kafka"], "kafka_2.13").startswith("4.1.")
    assert version_of(lock["cassandra"], "cassandra-all").startswith("5.0.")
    assert any(jar.path.name.startswith("jamm-") for jar in lock["cassandra"])
    assert any("slf4j-impl" in jar.coordinate for jar in lock["kafka"])  # else the broker is mute
    for jars in lock.values():
        assert len(jars) >= 40
        assert len({jar.coordinate for jar in jars}) == len(jars)
        assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in jars)


def test_one_coordinate_is_one_file() -> None:
    """Both servers share a cache: a jar that both use must be the same jar."""
    seen: dict[Path, Jar] = {}
    for jar in (jar for jars in read_lock().values() for jar in jars):
        assert seen.setdefault(jar.path, jar) == jar


def test_a_classifier_is_part_of_the_name() -> None:
    jar = parse_lock("# comment\ncassandra\tio.netty:epoll:4.1:linux-x86_64\t1\tab\n")["cassandra"][
        0
    ]
    assert jar.path == Path("io/netty/epoll/4.1/epoll-4.1-linux-x86_64.jar")
    assert jar.parts == ("io.netty", "epoll", "4.1", "linux-x86_64", "jar")
    (packed,) = parse_lock("x\tio.netty:epoll:4.1:all:tar.gz\t1\tab\n")["x"]
    assert packed.path == Path("io/netty/epoll/4.1/epoll-4.1-all.tar.gz")
    (plain,) = parse_lock("x\tio.netty:epoll:4.1\t1\tab\n")["x"]
    assert plain.parts == ("io.netty", "epoll", "4.1", "", "jar")


def test_intact_means_size_and_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.jar"
    jar = Jar("g:a:1", 4, hashlib.sha256(b"good").hexdigest())
    assert not jar.intact(file)
    for content, whole in ((b"good", True), (b"goo", False), (b"evil", False)):
        file.write_bytes(content)
        assert jar.intact(file) is whole


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("FRAUDSTREAM_CACHE", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "fraudstream"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "fraudstream"
    monkeypatch.setenv("FRAUDSTREAM_CACHE", "~/own")
    assert cache_dir() == tmp_path / "own"
    (tmp_path / "own").write_text("")
    with pytest.raises(UnavailableError, match="FRAUDSTREAM_CACHE must name one"):
        cache_dir()
