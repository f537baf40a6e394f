"""Commands ask the workers whether they can load a model: over HTTP, with and without a secret."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.model_load_check import require_loadable
from app.errors import UnavailableError, UsageError
from app.kafka import clients
from app.settings import Settings, load_settings
from app.stages.loaded_models import ModelSupply
from app.web import model_load_requests
from app.web.access.checks import ACCESS
from app.web.model_load_requests import ask_workers
from app.web.pages import install
from tests.web_worker import DictWorker, client_of

SECRET = "s" * 32
KNOWN, UNKNOWN = "aa" * 32, "bb" * 32


@asynccontextmanager
async def serving(*workers: DictWorker, old: bool = False) -> AsyncIterator[list[str]]:
    """Workers that answer; their addresses. `old`: of a release without this question."""
    servers = []
    for worker in workers:
        application = web.Application()
        if not old:
            install(application, worker)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)
        worker.url = str(server.make_url("")).rstrip("/")
        if not old:
            # the checks were given the address when it was made, before the port was known
            application[ACCESS]._own_url = worker.url
    try:
        yield [worker.url for worker in workers]
    finally:
        for server in servers:
            await server.close()


def given(monkeypatch: pytest.MonkeyPatch, urls: list[str] | Exception) -> None:
    async def worker_urls(_: Settings) -> list[str]:
        if isinstance(urls, Exception):
            raise urls
        return urls

    monkeypatch.setattr(model_load_requests, "worker_urls", worker_urls)


async def test_each_worker_says_what_it_can_load(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({})
    async with serving(DictWorker(), DictWorker()) as urls:
        given(monkeypatch, [*urls, "http://127.0.0.1:1", "file:///etc"])
        found = await ask_workers(settings, KNOWN, "ann")
        assert found.loads == urls
        assert found.refuses == {}
        assert "does not answer" in found.silent["http://127.0.0.1:1"]
        assert "is not the address of a worker" in found.silent["file:///etc"]
        found = await ask_workers(settings, UNKNOWN, "ann")
        assert found.refuses == dict.fromkeys(urls, "no such model")
        with pytest.raises(UsageError) as error:
            await require_loadable(settings, "fraud@2", UNKNOWN)
        assert (
            str(error.value)
            == f"the worker at {urls[0]} (and 1 more) cannot load fraud@2: no such model"
        )


async def test_workers_behind_a_login_know_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guarded: dict[str, Any] = {"web_host": "0.0.0.0", "web_secret": SECRET}
    async with serving(DictWorker(**guarded)) as (url,):
        given(monkeypatch, [url])
        assert (await ask_workers(load_settings({"web_secret": SECRET}), KNOWN, "ann")).loads == [
            url
        ]
        found = await ask_workers(load_settings({"web_secret": "t" * 32}), KNOWN, "ann")
        assert "does not know this deployment's FRAUDSTREAM_WEB_SECRET" in found.silent[url]
        found = await ask_workers(load_settings({}), KNOWN, "ann")
        assert found.silent == {
            url: "it answers with status 401: give this command the workers' FRAUDSTREAM_WEB_SECRET"
        }
        assert found.loads == []


async def test_who_could_not_be_asked_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings({})
    given(monkeypatch, [])
    await require_loadable(settings, "fraud@2", KNOWN)
    says = "no worker was asked to load fraud@2: {}; only this machine has tested it\n"
    assert capsys.readouterr().err == says.format("none is running")
    given(monkeypatch, UnavailableError("Kafka does not answer"))
    await require_loadable(settings, "fraud@2", KNOWN)
    assert capsys.readouterr().err == says.format("Kafka does not answer")
    async with serving(DictWorker(), old=True) as (url,):
        given(monkeypatch, [url])
        await require_loadable(settings, "fraud@2", KNOWN)
        assert capsys.readouterr().err.splitlines() == [
            f"the worker at {url} was not asked to load fraud@2: it is of an earlier release",
            says.format("none answered").strip(),
        ]
    async with serving(DictWorker()) as (url,):
        given(monkeypatch, [url])
        await require_loadable(settings, "fraud@2", KNOWN)
        assert capsys.readouterr().err == ""


async def test_a_worker_is_asked_for_one_hash() -> None:
    async with client_of(DictWorker()) as client:
        for query in (
            "",
            "?hash=",
            "?hash=../../etc",
            f"?hash={KNOWN}&more=1",
            "?hash=AA" + "a" * 62,
        ):
            answer = await client.get(
                f"/models/load.json{query}", headers={"Accept": "application/json"}
            )
            assert answer.status == 400
            assert "the whole hash of a registered model" in await answer.text()


async def test_a_failed_attempt_changes_nothing() -> None:
    tried: list[str] = []

    def load(model_hash: str) -> Any:
        tried.append(model_hash)
        if len(tried) == 1:
            raise UsageError("damaged")  # noqa: EM101
        return "a model"

    supply = ModelSupply(load)
    assert str(await supply.try_now(KNOWN)) == "damaged"
    assert (supply.refused, supply.waiting) == ({}, {})
    assert await supply.try_now(KNOWN) is None
    assert supply.get(KNOWN) == "a model"
    assert await supply.try_now(KNOWN) is None
    assert len(tried) == 2


async def test_members_of_the_group_say_where_they_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def member(user_data: bytes) -> tuple[Any, ...]:
        told = clients.ConsumerProtocolMemberMetadata(4, ["transactions"], user_data).encode()
        return "id", "client", "/10.0.0.1", told, b""

    async def members(_: Settings) -> list[tuple[Any, ...]]:
        return [
            member(b'{"url":"http://b:6066","assignment":{}}'),
            member(b'{"url":"http://a:6066"}'),
            member(b"no json"),
            ("id", "client", "/10.0.0.1", b"", b""),
        ]

    monkeypatch.setattr(clients, "_members", members)
    assert await clients.worker_urls(load_settings({})) == ["http://a:6066", "http://b:6066"]
