"""The examples of docs/extending.md work as they are written."""

import re
import types
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from jinja2 import ChoiceLoader, DictLoader

from app.domain.features.feature import Feature
from app.web import page_templates
from app.web.pages import PAGES, install
from tests.web_worker import DictWorker

DOCUMENT = (Path(__file__).parents[2] / "docs/extending.md").read_text()


def block(title: str, language: str, number: int = 0) -> str:
    """A code block of a section."""
    section = DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


async def test_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("owners")
    exec(block("A page", "python"), module.__dict__)  # noqa: S102 -- our own document
    environment = page_templates._environment()
    template = DictLoader({"owners.html": block("A page", "html")})
    loaders: Any = [template, environment.loader]
    monkeypatch.setattr(environment, "loader", ChoiceLoader(loaders))
    application = web.Application()
    install(application, DictWorker(), (*PAGES, *module.PAGES))
    async with TestClient(TestServer(application)) as client:
        assert (await (await client.get("/owners.json")).json())["http://127.0.0.1:6067"] == [2, 3]
        assert "<h1>Owners</h1>" in await (await client.get("/owners/")).text()


def test_a_feature_in_the_package() -> None:
    found = eval(  # noqa: S307 -- our own document
        block("A new kind of feature in the package", "python"), {"Feature": Feature}
    )
    assert found.name == "card_max_amount_{w}"
