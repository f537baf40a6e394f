"""sdist and wheel, built and installed away from the checkout, beside the image's packages alone."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.dependency_locks import ROOT, pins, production

PACKAGES = ("app", "agents", "tables", "models", "cql")
#: Read by people in the repository, by no code.
LEFT_OUT = {"models/artifacts/README.md"}
#: Of this process, but none of its settings.
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("FRAUDSTREAM_", "PYTHON"))}
#: No server: nothing here may ask one.
SETTINGS = {"FRAUDSTREAM_BROKER": "127.0.0.1:1", "FRAUDSTREAM_CASSANDRA": "127.0.0.1:1"}


class Installed(NamedTuple):
    python: Path
    wheel: Path
    sdist: Path
    tracked: list[str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    tracked = [name for name in listed if (ROOT / name).exists()]
    for name in tracked:  # building writes beside the sources
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"]
    done = subprocess.run(
        build, cwd=folder / "source", env=ENV, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stdout + done.stderr
    [wheel], [sdist] = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    python = production(folder / "venv")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return Installed(python, wheel, sdist, tracked)


def run(
    installed: Installed, *command: str, folder: Path, env: Mapping[str, str] = SETTINGS
) -> str:
    program = installed.python.with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, env={**ENV, **env},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def test_both_have_every_file_of_the_packages(installed: Installed) -> None:
    wanted = {n for n in installed.tracked if n.split("/")[0] in PACKAGES} - LEFT_OUT
    assert [name for name in wanted if not name.endswith(".py")]
    wheel = set(zipfile.ZipFile(installed.wheel).namelist())
    assert not wanted - wheel
    with tarfile.open(installed.sdist) as archive:
        sdist = {PurePosixPath(n).relative_to(n.split("/")[0]) for n in archive.getnames()}
    assert not {PurePosixPath(name) for name in wanted} - sdist
    assert PurePosixPath("LICENSE") in sdist
    assert {n.split("/")[0] for n in wheel if ".dist-info" not in n} == set(PACKAGES)


def test_the_licence_is_in_it(installed: Installed) -> None:
    [info] = installed.python.parents[1].glob("lib/python*/site-packages/fraudstream-*.dist-info")
    metadata = PathDistribution(info).metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_requirement_of_production_is_in_it(installed: Installed) -> None:
    [site] = installed.python.parents[1].glob("lib/python*/site-packages")
    found = [PathDistribution(info) for info in site.glob("*.dist-info")]
    versions = {
        each.name.lower().replace("_", "-").replace(".", "-"): each.version for each in found
    }
    assert versions.keys() - {"fraudstream"} == pins("requirements-prod.lock").keys()
    for each in found:
        for text in each.requires or ():
            needed = Requirement(text)
            extra = {**default_environment(), "extra": ""}
            if needed.marker is None or needed.marker.evaluate(extra):
                name = needed.name.lower().replace("_", "-").replace(".", "-")
                assert needed.specifier.contains(versions[name], prereleases=True), text


def test_commands_run_outside_a_checkout(installed: Installed, tmp_path: Path) -> None:
    assert "worker" in run(installed, "fraudstream", "--help", folder=tmp_path)
    assert "is_weekend" in run(installed, "fraudstream", "features", folder=tmp_path)
    assert "CREATE TABLE" in run(installed, "fraudstream", "migrate", "--dry-run", folder=tmp_path)
    assert "default" in run(installed, "fraudstream", "models", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_worker_can_be_built_with_what_the_image_has(
    installed: Installed, tmp_path: Path
) -> None:
    """Every module that a worker imports, of the wheel, without a tool in reach."""
    code = "from app.main import app; import app as package; print(package.__file__)"
    registry = {"FRAUDSTREAM_INPUT_FORMAT": "avro", "FRAUDSTREAM_SCHEMA_REGISTRY": "http://x:1"}
    env = {**SETTINGS, **registry}
    where = run(installed, "python", "-P", "-c", code, folder=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(installed.python.parents[1])


def test_the_bill_of_materials_is_what_is_installed(installed: Installed, tmp_path: Path) -> None:
    command = [
        # `make sbom` validates, too, which takes ten seconds
        sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", "--output-reproducible",
        "--output-format", "JSON", "--output-file", tmp_path / "sbom.cdx.json", installed.python,
    ]  # fmt: skip
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    versions = {
        each["name"].lower().replace("_", "-").replace(".", "-"): each["version"]
        for each in bill["components"]
    }
    assert versions.pop("fraudstream")
    assert versions == pins("requirements-prod.lock")
    assert all(each.get("purl") or each["name"] == "fraudstream" for each in bill["components"])
    [ours] = [each for each in bill["components"] if each["name"] == "fraudstream"]
    assert {"license": {"acknowledgement": "declared", "id": "Apache-2.0"}} in ours["licenses"]
