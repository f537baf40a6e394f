"""Dockerfile and compose.yaml, as far as they can be checked without Docker."""

import fnmatch
import re
import shlex
import subprocess
from pathlib import PurePosixPath
from typing import Any

import click
import pytest
import yaml

from app.cli import cli
from app.settings import Settings
from tests.dependency_locks import ROOT, pins
from tests.unit.test_dist import PACKAGES

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"].startswith("fraudstream")}
HOME = "/var/lib/fraudstream"


def steps() -> list[tuple[str, str]]:
    """Instruction and argument, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Steps of the stage that builds, and of the one that stays."""
    all_of_them = steps()
    first, second = (i for i, (word, _) in enumerate(all_of_them) if word == "FROM")
    return all_of_them[first:second], all_of_them[second:]


def ignored(name: str) -> bool:
    """What .dockerignore says of a file: the last line that matches decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = PurePosixPath(name).parts
            paths = ["/".join(parts[: i + 1]) for i in range(len(parts))]
            if "**/" in line:
                paths += parts
            if any(fnmatch.fnmatchcase(path, pattern) for path in paths):
                out = not line.startswith("!")
    return out


def copied() -> list[str]:
    build, _ = stages()
    return [
        source
        for word, rest in build if word == "COPY"
        for source in shlex.split(rest)[:-1]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines())


def test_what_is_copied_is_tracked_and_not_ignored(tracked: set[str]) -> None:
    for source in copied():
        files = {name for name in tracked if name == source or name.startswith(source + "/")}
        assert files, f"COPY {source}: git has no such file"
        assert not [name for name in files if ignored(name)]


def test_nothing_else_enters_the_image(tracked: set[str]) -> None:
    sources = set(copied())
    for name in tracked:
        assert ignored(name) == (not {name, name.split("/")[0]} & sources), name
    for name in (".env", ".fraudstream/servers/x", ".venv/bin/python", "app/__pycache__/a.pyc"):
        assert ignored(name)


def test_every_package_is_copied() -> None:
    assert set(PACKAGES) <= set(copied())


def test_the_image_has_production_alone_by_hash() -> None:
    build, final = stages()
    installs = [rest for word, rest in build if word == "RUN" and "install" in rest]
    assert "--require-hashes -r requirements-prod.lock" in installs[0]
    assert "--require-hashes -r requirements-build.lock" in installs[0]
    for install in re.findall(r"pip [^&]*install[^&]*", " ".join(installs)):
        assert "--require-hashes" in install or "--no-index" in install
    assert not [rest for word, rest in final if word == "RUN" and "pip" in rest]
    assert "requirements.lock" not in " ".join(copied())
    assert pins("requirements-prod.lock")


def test_it_runs_as_nobody_in_particular() -> None:
    _, final = stages()
    last = dict(final)
    assert last["USER"] == "10001:10001"
    assert last["VOLUME"] == last["WORKDIR"] == HOME
    assert f"FRAUDSTREAM_HOME={HOME}" in last["ENV"]
    assert "/health/live" in last["HEALTHCHECK"]
    words = [word for word, _ in final]
    assert max(i for i, word in enumerate(words) if word == "RUN") < words.index("USER")
    assert last["ENTRYPOINT"] == '["fraudstream"]'
    assert last["CMD"] == '["worker"]'


def test_no_secret_and_no_latest() -> None:
    assert not re.search("PASSWORD|SECRET|TOKEN", DOCKERFILE)
    images = [each["image"] for each in SERVICES.values()]
    images.append(re.findall(r"ARG PYTHON_IMAGE=(\S+)", DOCKERFILE)[0])
    for image in images:
        assert ":" in image
        assert not image.endswith(":latest")


@pytest.mark.parametrize(
    ("service", "jar"),
    [
        ("kafka", "org.apache.kafka:kafka-clients"),
        ("cassandra", "org.apache.cassandra:cassandra-all"),
    ],
)
def test_compose_has_the_servers_that_are_tested(service: str, jar: str) -> None:
    lock = next((ROOT / "app").rglob("jars.lock")).read_text()
    [tested] = re.findall(rf"\t{jar}:(\S+)\t", lock)
    tag = SERVICES[service]["image"].rpartition(":")[2]
    assert f"{tested}.".startswith(f"{tag}.")


@pytest.mark.parametrize("name", OURS)
def test_compose_locks_our_containers_down(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["command"][0] in cli.list_commands(click.Context(cli))


def test_compose_starts_things_in_their_order() -> None:
    def needs(name: str) -> dict[str, str]:
        return {k: v["condition"] for k, v in SERVICES[name]["depends_on"].items()}

    healthy, done = "service_healthy", "service_completed_successfully"
    assert needs("topics") == {"kafka": healthy}
    assert needs("migrate") == {"topics": done, "cassandra": healthy}
    workers = [name for name, each in OURS.items() if each["command"] == ["worker"]]
    assert len(workers) > 1
    for name in workers:
        assert needs(name) == {"migrate": done}
    # of its own: one worker per state folder
    volumes = [SERVICES[name]["volumes"] for name in workers]
    assert all(volume[0].endswith(f":{HOME}") for volume in volumes)
    assert len({volume[0] for volume in volumes}) == len(workers)


def test_compose_publishes_to_this_machine_alone() -> None:
    ports = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_all_variables_are_settings() -> None:
    known = {f"FRAUDSTREAM_{name.upper()}" for name in Settings.model_fields}
    texts = [DOCKERFILE, (ROOT / "compose.yaml").read_text(), (ROOT / "docs/deploy.md").read_text()]
    for name in set(re.findall(r"FRAUDSTREAM_[A-Z_]+[A-Z]", " ".join(texts))):
        assert name in known
    for each in OURS.values():
        values = {
            key.removeprefix("FRAUDSTREAM_").lower(): value
            for key, value in each["environment"].items()
        }
        assert all(isinstance(value, str) for value in values.values())
        Settings(_env_file=None, **values)
