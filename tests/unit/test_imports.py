"""Imports point down, modules stay small, and the agents that run are the expected ones."""

import ast
import json
import re
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import Topics
from tests.own_process import printed

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "agents", "tables", "models", "cql")

#: Every layer and its height. A module imports modules of lower layers, and of its own.
HEIGHT = {
    "app.errors": 0,
    "app.connection_settings": 0.5,
    "app.oidc_settings": 0.6,
    "app.address_syntax": 0,
    "app.notify_routes": 0,
    "app.alert_settings": 0.5,
    "app.worker_settings": 0.5,
    "app.scoring_deployment": 0,
    "app.durations": 0,
    "app.encrypted_credentials": 0.2,
    "app.env_file": 0.2,
    "app.display": 0,
    "app.logs": 0,
    "app.field_names": 0,
    "app.pseudonyms": 0,
    "app.repeated_warnings": 0,
    "app.setting_lists": 0.1,
    "app.unknown_settings": 0,
    "app.wire.unreadable": 0,
    "app.settings": 1,
    "app.windows": 1,
    "app.domain": 2,
    "app.server_addresses": 2,
    "app.change_author": 0,
    "app.file_writing": 1,
    "app.folder_locks": 2,
    "app.machine_requirements": 1,
    "app.tls": 2,
    "app.topics": 2,
    "cql": 2,
    "app.wire": 3,
    "app.blocks.core": 3,
    "app.blocks": 4,
    "app.devstack": 4,
    "app.metrics": 4,
    "app.monitoring": 4,
    "models": 4,
    "app.kafka": 5,
    "app.cassandra": 6,
    "app.stages": 7,
    "app.quality": 7,
    "app.notify": 7,
    "app.start_checks": 7.5,
    "app.faust_app": 8,
    "tables": 9,
    "agents": 10,
    "app.web": 10,
    "app.ops": 10,
    "app.lab": 11,
    "app.cli": 12,
    "app.main": 13,
    "app": -1,  # nothing but a lazy attribute
    "app.__main__": 14,
}
#: (layer, layer): imported only where they are used: `fraudstream worker`, and `app.app`.
DOORS = {("app.cli", "app.main"), ("app", "app.main")}
#: Beside a worker, never in it: tools, local servers for people and tests, the laboratory.
TOOLS, LAB = {"app.cli", "app.ops", "app.lab"}, {"app.cli", "app.lab"}
RESTRICTED = {
    "app.ops": TOOLS,
    "app.devstack": {*TOOLS, "app.devstack"},
    "app.lab": LAB,
}
MAX_LINES = 450


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def layer_of(module: str) -> str:
    """The layer of a module."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        layer = ".".join(parts[:length])
        if layer in HEIGHT and (layer != "app" or length == len(parts)):
            return layer
    pytest.fail(f"{module} is in no layer: give it a height in {Path(__file__).name}")


def imports_of(path: Path) -> set[str]:
    """Our modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    here = layer_of(module)
    for imported in imports_of(MODULES[module]):
        there = layer_of(imported)
        if there == here or (here, there) in DOORS:
            continue
        assert HEIGHT[there] < HEIGHT[here], f"{module} imports {imported}, which is not below it"
        assert here in RESTRICTED.get(there, {here}), f"{module} must not know {imported}"


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith(("app.domain", "app.windows"))]
)
def test_the_domain_is_pure(module: str) -> None:
    """No Faust, no I/O, no clock, no randomness."""
    forbidden = {"faust", "aiokafka", "asyncio", "time", "random", "os", "socket", "rocksdict"}
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert forbidden.isdisjoint(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in forbidden
        elif isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today"}, "the domain has no clock"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("app.blocks")])
def test_the_block_transport_knows_nothing_of_fraud(module: str) -> None:
    source = MODULES[module].read_text().replace("no word of fraud", "")
    assert not re.search(r"\b(frauds?|cards?|terminals?|predictions?)\b", source, re.IGNORECASE)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("app.blocks.core")])
def test_the_order_of_effects_knows_neither_faust_nor_kafka(module: str) -> None:
    source = MODULES[module].read_text()
    assert not re.search(r"^(from|import) (faust|aiokafka|mode|rocksdict)", source, re.MULTILINE)


def test_a_worker_loads_no_tools_and_no_laboratory() -> None:
    """What is imported in a worker's process, after everything has been registered."""
    code = (
        "import sys, app.main\n"
        "print(*(n for n in sys.modules if n.startswith(('app.ops', 'app.lab', 'app.devstack'))))"
    )
    loaded = printed(code, FRAUDSTREAM_BROKER="127.0.0.1:1", FRAUDSTREAM_CASSANDRA="127.0.0.1:1")
    assert loaded.split() == []


def test_commands_load_no_scikit_learn_before_a_model() -> None:
    """Importing it takes a second, which each command that reads a registry would take."""
    code = "import sys, app.ops.manage_models, app.ops.verify; print('sklearn' in sys.modules)"
    assert printed(code).strip() == "False"


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def test_files_that_texts_mention_are_there() -> None:
    """Comments, docstrings and documents name modules: a renamed one must not live on in them."""
    texts = [*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.md")]
    texts += (ROOT / "docs").rglob("*.md")
    present = ["/app/web/owners.py", "/train_mine.py"]  # docs/extending.md shows how to write them
    present += [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("[!.]*/**/*.py")]
    for path in texts:
        for name in set(re.findall(r"(?<![\w/.{-])\w[\w/]*\.py\b", path.read_text())):
            assert any(one.endswith(f"/{name}") for one in present), f"{path}: {name}"


def test_importing_what_is_below_the_app_needs_no_server() -> None:
    """Nothing is connected, started or resolved by an import."""
    names = [m for m in MODULES if HEIGHT[layer_of(m)] < HEIGHT["app.faust_app"]]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    printed(code, FRAUDSTREAM_HOME="/nonexistent")


def test_registered_agents_are_the_expected_ones() -> None:
    code = (
        "import json\n"
        "from app.main import app\n"
        "print(json.dumps([sorted(app.agents), sorted(app.tables), sorted(app.pipelines), "
        "[table.changelog_topic.get_topic_name() for table in app.tables.values()]]))"
    )
    agents, tables, pipelines, changelogs = json.loads(
        printed(code, FRAUDSTREAM_BROKER="127.0.0.1:1", FRAUDSTREAM_CASSANDRA="127.0.0.1:1")
    )
    assert agents == ["alerts", "cards", "control", "labels", "refunds", "scoring", "sink"]
    assert tables == ["cards", "labels", "terminals"]
    assert pipelines == [
        "alerts", "control", "fraudstream-enriched", "labels", "predictions", "refunds",
        "transactions",
    ]  # fmt: skip
    checked = [
        changelog.name for changelog, _source in Topics(Settings.model_construct()).changelogs
    ]
    assert sorted(changelogs) == sorted(checked), "a lost changelog would not be noticed at start"
