"""Who gets to see and to change what: login, roles, CSRF, hosts, limits, audit, and requests between workers."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from app.errors import SettingsError
from app.web import worker_requests
from app.web.access.rate_limits import RateLimit
from app.web.access.signed_values import Session, Signer
from app.web.access.users import Users, password_line, token_line
from app.web.key_owner import OwnedElsewhere
from app.web.pages import PAGES, install
from app.web.roles import Role, Viewer
from app.web.routes import Route, audited
from tests.web_worker import DictWorker, client_of

JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html"}
PASSWORD = "correct horse battery"
SECRET = "s" * 32
VIEWER, ANALYST = token_line("prom", "viewer"), token_line("script", "analyst")


@pytest.fixture(scope="session")
def lines() -> dict[str, str]:
    return {"ann": password_line("ann", "analyst", PASSWORD)}


@pytest.fixture
def users(tmp_path: Path, lines: dict[str, str]) -> Path:
    file = tmp_path / "users"
    file.write_text("\n".join(["# who", lines["ann"], VIEWER[1], ANALYST[1], ""]))
    return file


def write(users: Path, text: str) -> None:
    users.write_text(text)


def guarded(users: Path | None, **settings: Any) -> DictWorker:
    worker = DictWorker(web_host="0.0.0.0", web_users=users, **settings)
    worker.add("c1", [0])
    return worker


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **JSON}


async def change(request: web.Request) -> web.Response:
    """A page that changes something."""
    audited(request, verdict="fraud")
    return web.Response(text="changed")


async def show(_request: web.Request) -> web.Response:
    """A page with a form."""
    from app.web.roles import viewer

    return web.Response(text=str(viewer.get().csrf_field))


def with_change(worker: DictWorker, remote: str | None = None) -> TestClient:
    application = web.Application()
    if remote is not None:

        @web.middleware
        async def from_elsewhere(request: web.Request, handler: Any) -> Any:
            return await handler(request.clone(remote=remote))

        application.middlewares.append(from_elsewhere)
    table = (
        *PAGES,
        Route("GET", "/change", show, Role.ANALYST),
        Route("POST", "/change", change, Role.ANALYST),
    )
    install(application, worker, table)
    return TestClient(TestServer(application), cookie_jar=aiohttp.DummyCookieJar())


async def parts() -> AsyncIterator[bytes]:
    """A body that does not say how long it is."""
    yield b"a=1"


async def never() -> AsyncIterator[bytes]:
    """A body that does not end."""
    yield b"a"
    await asyncio.Event().wait()


def token_in(text: str) -> str:
    found = re.search(r'name="csrf" value="([^"]*)"', text)
    assert found
    return found[1]


async def log_in(
    client: TestClient, password: str = PASSWORD, device: str = "", **fields: str
) -> Any:
    form = await client.get("/login")
    cookie = form.cookies["__Host-fraudstream-login"].value
    return await client.post(
        "/login",
        data={"csrf": token_in(await form.text()), "name": "ann", "password": password, **fields},
        headers={"Cookie": f"__Host-fraudstream-login={cookie}; {device}"},
        allow_redirects=False,
    )


def device_of(answer: Any) -> str:
    return f"__Host-fraudstream-device={answer.cookies['__Host-fraudstream-device'].value}"


async def session(client: TestClient) -> dict[str, str]:
    done = await log_in(client)
    assert done.status == 303, await done.text()
    return {"Cookie": f"__Host-fraudstream={done.cookies['__Host-fraudstream'].value}", **HTML}


def test_every_page_names_its_role() -> None:
    public = {page.path for page in PAGES if page.role is Role.PUBLIC}
    login = {"/login", "/login/oidc", "/login/callback"}
    assert public == {"/health/live", "/health/ready", "/style.css", "/static/{name}"} | login
    posts = {page.path: page.role for page in PAGES if page.method == "POST"}
    assert all(role > Role.PUBLIC for path, role in posts.items() if path != "/login")
    keys = [page for page in PAGES if page.path.startswith(("/card", "/terminal", "/transaction"))]
    assert keys
    assert {page.role for page in keys} == {Role.ANALYST}


async def test_loopback_is_open_and_beyond_it_is_a_login(users: Path) -> None:
    local = DictWorker()
    local.add("c1", [0])
    async with client_of(local) as client:
        assert (await client.get("/cards/c1/")).status == 200
    async with client_of(guarded(users)) as client:
        for path in ("/", "/cards/c1/", "/metrics", "/quality/", "/change"):
            answer = await client.get(path, headers=JSON)
            assert answer.status == (404 if path == "/change" else 401), path
        assert answer.headers["Content-Security-Policy"]
        page = await client.get("/cards/c1/?a=b&c", headers=HTML, allow_redirects=False)
        assert page.status == 303
        assert URL(page.headers["Location"]).query["next"] == "/cards/c1/?a=b&c"
        for path in ("/health/live", "/health/ready", "/style.css", "/login"):
            assert (await client.get(path)).status == 200
    async with client_of(guarded(None)) as client:
        assert "FRAUDSTREAM_WEB_USERS" in await (await client.get("/", headers=JSON)).text()
    async with client_of(guarded(users, web_open_metrics=True)) as client:
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/", headers=JSON)).status == 401
    async with client_of(guarded(None, web_login="never")) as client:
        assert (await client.get("/cards/c1/")).status == 200
    always = DictWorker(web_login="always", web_users=users)
    async with client_of(always) as client:
        assert (await client.get("/", headers=JSON)).status == 401


async def test_a_route_outside_the_table_is_not_answered(users: Path) -> None:
    application = web.Application()
    install(application, DictWorker())
    application.router.add_get("/forgotten", show)
    async with TestClient(TestServer(application)) as client:
        assert (await client.get("/forgotten")).status == 404


async def test_tokens_have_roles(users: Path) -> None:
    async with client_of(guarded(users)) as client:
        assert (await client.get("/metrics", headers=bearer(VIEWER[0]))).status == 200
        refused = await client.get("/cards/c1.json", headers=bearer(VIEWER[0]))
        assert refused.status == 403
        assert (await refused.json())["error"] == "this needs the web role analyst; prom has viewer"
        assert (await client.get("/cards/c1.json", headers=bearer(ANALYST[0]))).status == 200
        for token, sees in ((VIEWER[0], False), (ANALYST[0], True)):
            overview = await (await client.get("/index.json", headers=bearer(token))).json()
            assert ("transaction_id" in overview["parked_labels"]["2"]) is sees
        wrong = await client.get("/", headers=bearer("wrong"))
        assert wrong.status == 401
        assert wrong.headers["WWW-Authenticate"] == "Bearer"


async def test_a_session_and_its_end(users: Path, lines: dict[str, str]) -> None:
    async with with_change(guarded(users)) as client:
        wrong = await log_in(client, "wrong")
        assert wrong.status == 401
        assert "wrong name or password" in await wrong.text()
        done = await log_in(client, next="/cards/c1/")
        assert done.headers["Location"] == "/cards/c1/"
        cookie = done.cookies["__Host-fraudstream"]
        assert cookie["httponly"]
        assert cookie["secure"]
        assert cookie["samesite"] == "Lax"
        assert cookie["path"] == "/"
        assert not cookie["domain"]
        mine = {"Cookie": f"__Host-fraudstream={cookie.value}", **HTML}
        page = await (await client.get("/cards/c1/", headers=mine)).text()
        assert "Log out ann" in page
        out = await client.post(
            "/logout", data={"csrf": token_in(page)}, headers=mine, allow_redirects=False
        )
        assert (out.status, out.headers["Location"]) == (303, "/login")
        assert out.cookies["__Host-fraudstream"].value == ""

        forged = {**mine, "Cookie": mine["Cookie"][:-2] + "xx"}
        assert (await client.get("/", headers=forged, allow_redirects=False)).status == 303
        write(users, lines["ann"].replace("analyst", "viewer"))
        assert (await client.get("/cards/c1/", headers=mine)).status == 403
        write(users, "# nobody is left that has a password\n" + VIEWER[1])
        assert (await client.get("/", headers=mine, allow_redirects=False)).status == 303
        write(users, password_line("ann", "analyst", "another password"))
        assert (await client.get("/", headers=mine, allow_redirects=False)).status == 303
        write(users, "nonsense")  # half an edit locks nobody out, and lets nobody in
        assert (await client.get("/", headers=mine, allow_redirects=False)).status == 303


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/a\nb"]
)
async def test_a_login_leads_nowhere_else(users: Path, target: str) -> None:
    async with with_change(guarded(users)) as client:
        assert (await log_in(client, next=target)).headers["Location"] == "/"


async def test_changes_need_the_token_of_their_form(users: Path) -> None:
    async with with_change(guarded(users)) as client:
        mine = await session(client)
        token = token_in(await (await client.get("/change", headers=mine)).text())
        for data, headers, status in [
            ({}, {}, 403),
            ({"csrf": "0" * 64}, {}, 403),
            ({"csrf": token}, {}, 200),
            ({}, {"X-Fraudstream-Csrf": token}, 200),
            ({"csrf": token}, {"Origin": "https://evil.example"}, 403),
            ({"csrf": token}, {"Origin": "null"}, 403),
            ({"csrf": token, "more": "x" * 70_000}, {}, 413),
            (parts(), {"X-Fraudstream-Csrf": token}, 411),
        ]:
            answer = await client.post("/change", data=data, headers={**mine, **headers})
            assert answer.status == status, (data, headers)
        other = await session(client)
        answer = await client.post("/change", data={"csrf": token}, headers=other)
        assert answer.status == 403, "a token of another session"
        assert (await client.post("/change", headers=bearer(ANALYST[0]))).status == 200
        assert (await client.post("/change", headers=bearer(VIEWER[0]))).status == 403
        assert (await client.post("/change", data={"csrf": token})).status == 401
        forged = await client.post("/login", data={"name": "ann", "password": PASSWORD})
        assert forged.status == 403, "a login that another page sends"
    async with with_change(
        DictWorker()
    ) as client:  # loopback: no login, but no forms of other pages
        token = token_in(await (await client.get("/change")).text())
        assert (await client.post("/change")).status == 403
        assert (await client.post("/change", data={"csrf": token})).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example:6066", 421), ("localhost:1", 200), ("[::1]:1", 200),
     ("10.2.3.4:6066", 200), ("worker-1", 200), ("Fraud.Bank.example.", 200), ("", 421)],
)  # fmt: skip
async def test_names_that_are_not_ours_are_refused(host: str, status: int) -> None:
    worker = DictWorker(advertised_host="worker-1", web_hosts="fraud.bank.example, other")
    async with client_of(worker) as client:
        assert (await client.get("/quality.json", headers={"Host": host})).status == status
        assert (await client.get("/health/live", headers={"Host": host})).status == 200


async def test_credentials_beyond_loopback_need_tls(users: Path) -> None:
    away = "10.0.0.9"
    safe = {"X-Forwarded-Proto": "https"}
    async with with_change(guarded(users), away) as client:
        plain = await client.get("/metrics", headers=bearer(VIEWER[0]))
        assert plain.status == 403
        assert "over https only" in await plain.text()
        assert (await client.get("/metrics", headers=bearer(VIEWER[0]) | safe)).status == 200
        assert (await log_in(client)).status == 403
    allowed = guarded(users, allow_unencrypted_credentials=True)
    async with with_change(allowed, away) as client:
        assert (await client.get("/metrics", headers=bearer(VIEWER[0]))).status == 200


async def test_guessing_is_slow(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.access.login_attempts._OWN_BURST", 2)
    monkeypatch.setattr("app.web.access.login_attempts._OWN_PER_SECOND", 1e-6)
    async with with_change(guarded(users)) as client:
        statuses = [(await log_in(client, "wrong")).status for _ in range(3)]
        assert statuses == [401, 401, 429]
        assert (await log_in(client)).status == 429, "nor does the right password get through"
        many = [(await client.get("/", headers=bearer(VIEWER[0]))).status for _ in range(300)]
        assert 429 in many
        assert (await client.get("/health/live")).status == 200


async def test_a_stranger_locks_nobody_out(
    users: Path, monkeypatch: pytest.MonkeyPatch, lines: dict[str, str]
) -> None:
    monkeypatch.setattr("app.web.access.login_attempts._OWN_BURST", 3)
    monkeypatch.setattr("app.web.access.login_attempts._OWN_PER_SECOND", 1e-6)
    monkeypatch.setattr("app.web.access.login_attempts._NAME_BURST", 5)
    monkeypatch.setattr("app.web.access.login_attempts._NAME_PER_SECOND", 1e-6)
    safe = {"X-Forwarded-Proto": "https"}
    write(users, f"{lines['ann']}\n{lines['ann'].replace('ann', 'bob', 1)}")
    remote = ["10.0.0.1"]
    application = web.Application()

    @web.middleware
    async def from_there(request: web.Request, handler: Any) -> Any:
        headers = {**request.headers, **safe}
        return await handler(request.clone(remote=remote[0], headers=headers))

    application.middlewares.append(from_there)
    install(application, guarded(users, web_secret=SECRET))
    jar = aiohttp.DummyCookieJar()
    async with TestClient(TestServer(application), cookie_jar=jar) as client:

        async def attempts(address: str, number: int, password: str = "wrong") -> list[int]:
            remote[0] = address
            return [(await log_in(client, password)).status for _ in range(number)]

        known = device_of(await log_in(client))
        assert await attempts("6.6.6.6", 4) == [401, 401, 401, 429]
        assert await attempts("10.0.0.1", 1, PASSWORD) == [303], "from another address"
        # from many addresses: unknown browsers have to wait, and an IPv6 network is one address
        assert await attempts("2001:db8::1", 1) == [429]
        assert await attempts("2001:db8::2", 1, PASSWORD) == [429]
        assert (await log_in(client, PASSWORD, known)).status == 303, "a browser that ann has used"
        assert (await log_in(client, PASSWORD, known[:-1])).status == 429, "a forged cookie"
        other = await log_in(client, PASSWORD, known, name="bob")
        assert other.status == 303
        assert (await log_in(client, PASSWORD, device_of(other))).status == 429, "bob's browser"
        # guessing is slow there, too
        assert [(await log_in(client, "wrong", known)).status for _ in range(3)] == [401, 401, 429]


def test_a_limit_fills_again() -> None:
    now = [0.0]
    limit = RateLimit(2, 0.5, lambda: now[0])
    assert [limit.take("a"), limit.take("a"), limit.take("b")] == [0, 0, 0]
    assert limit.take("a") == 2.0
    now[0] = 2.0
    assert limit.take("a") == 0
    assert limit.take("a") > 0


async def test_a_body_has_to_arrive(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.access.request_bodies._SECONDS", 0.05)
    async with with_change(guarded(users)) as client:
        mine = {**await session(client), "Content-Length": "900"}
        mine["Content-Type"] = "application/x-www-form-urlencoded"
        answer = await client.post("/change", data=never(), headers=mine)
        assert answer.status == 408
        assert "did not arrive" in await answer.text()


async def test_each_change_leaves_a_record(users: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fraudstream").setLevel(logging.ERROR)  # as FRAUDSTREAM_LOG_LEVEL=error
    try:
        async with with_change(guarded(users)) as client:
            await client.post("/change", headers=bearer(ANALYST[0]))
            mine = await session(client)
            await client.post("/change", headers=mine)
            await log_in(client, "wrong")
    finally:
        logging.getLogger("fraudstream").setLevel(logging.NOTSET)
    told = [json.loads(r.getMessage()) for r in caplog.records if r.name == "fraudstream.audit"]
    short = [(one["audit"], one["by"], one["status"]) for one in told]
    assert short == [
        ("/change", "script", 200), ("/login", "", 303), ("/change", "ann", 403), ("/login", "", 401),
    ]  # fmt: skip
    assert told[0]["verdict"] == "fraud"
    assert told[0]["from"] == "127.0.0.1"
    assert told[3]["user"] == "ann"
    assert PASSWORD not in caplog.text
    assert ANALYST[0] not in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [("ann analyst", "line 1: write NAME ROLE HASH"), ("ann analyst plain", "line 1: write NAME"),
     (f"\nann boss {VIEWER[1].split()[2]}", "line 2: 'boss' is not a web role; choose viewer, analyst, operator"),
     (f"{VIEWER[1]}\n{VIEWER[1]}", "line 2: there is already a 'prom'")],
    ids=["no hash", "no such hash", "no such role", "twice"],  # the hashes differ from process to process
)  # fmt: skip
def test_a_wrong_file_of_users_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "users"
    file.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(says)):
        Users(file)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        Users(tmp_path / "none")


# ---------------------------------------------------------------------- between workers


class Asking(DictWorker):
    """A worker that asks another one over HTTP."""

    async def forward(
        self, url: str, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> worker_requests.PeerAnswer:
        """As `FaustWorker` does, less its bounds."""
        self.asked.append((url, method, headers))
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, url, headers=headers) as got,
        ):
            kind, proof = (
                got.headers["Content-Type"],
                got.headers.get(worker_requests.PROOF_HEADER, ""),
            )
            return worker_requests.PeerAnswer(got.status, kind, await got.read(), proof)


async def ask_through(users: Path, ours: str | None, theirs: str | None) -> tuple[int, str, Asking]:
    """Ask one worker for a card that another one holds; what comes back."""
    holder = guarded(users, web_secret=theirs)
    server = TestServer(web.Application())
    install(server.app, holder)
    async with server:
        holder.url = str(server.make_url("")).rstrip("/")
        # the checks were given the address when it was made, before the port was known
        from app.web.access.checks import ACCESS

        server.app[ACCESS]._own_url = holder.url
        asking = Asking(web_host="0.0.0.0", web_users=users, web_secret=ours)
        asking.place = OwnedElsewhere(holder.url)
        async with client_of(asking) as client:
            answer = await client.get("/cards/c1.json", headers=bearer(ANALYST[0]))
            return answer.status, await answer.text(), asking


async def test_workers_prove_to_each_other_who_they_are(users: Path) -> None:
    status, text, asking = await ask_through(users, SECRET, SECRET)
    assert (status, json.loads(text)["id"]) == (200, "c1")
    [(url, _, headers)] = asking.asked
    assert ANALYST[0] not in str(headers), "the token stays here"
    assert SECRET not in str(headers) + url

    status, text, _ = await ask_through(users, SECRET, "t" * 32)
    assert status == 503
    assert "does not know this deployment's FRAUDSTREAM_WEB_SECRET" in text
    status, text, asking = await ask_through(users, None, None)
    assert status == 503
    assert "only with FRAUDSTREAM_WEB_SECRET" in text
    assert not asking.asked


async def test_a_member_that_only_pretends_is_not_believed(users: Path) -> None:
    asking = guarded(users, web_secret=SECRET)
    asking.place = OwnedElsewhere("http://10.0.0.1:6066")
    asking.answers["http://10.0.0.1:6066/cards/c1.json"] = (200, "application/json", b'{"id":"c1"}')
    async with client_of(asking) as client:
        answer = await client.get("/cards/c1.json", headers=bearer(ANALYST[0]))
        assert answer.status == 503
        for url in (
            "http://user@h:1",
            "http://h:1/path",
            "file:///etc",
            "http://h:1?x",
            "nonsense",
        ):
            asking.place = OwnedElsewhere(url)
            answer = await client.get("/cards/c1.json", headers=bearer(ANALYST[0]))
            assert "not the address of a worker" in await answer.text(), url


def test_a_signed_request_fits_one_worker_one_page_and_one_moment() -> None:
    signer, now = Signer(SECRET.encode(), "peers"), time.time()
    ann = Viewer("änn:x", Role.ANALYST)
    header = worker_requests.ask(signer, ann, "http://b:1", "GET", "/cards/c1/", b"body", now)

    def seen(**other: Any) -> worker_requests.Vouched | None:
        given: dict[str, Any] = {
            "signer": signer, "header": header, "own": "http://b:1", "method": "GET", "path": "/cards/c1/", "now": now,
        }  # fmt: skip
        return worker_requests.asker_of(**(given | other))

    vouched = seen()
    assert vouched is not None
    assert vouched.asker == ann
    assert (vouched.sent(b"body"), vouched.sent(b"bodies"), vouched.sent(b"")) == (
        True,
        False,
        False,
    )
    assert seen(own="http://c:1") is None
    assert seen(path="/cards/c2/") is None
    assert seen(method="POST") is None
    assert seen(now=now + 60) is None
    assert seen(signer=Signer(SECRET.encode(), "cookies")) is None
    assert seen(header=header.replace(":", "::", 1)) is None
    assert seen(header="") is None
    assert seen(header=header.replace("analyst", "operator")) is None
    assert seen(header="nonsense") is None


def test_a_cookie_is_ours_and_ends() -> None:
    signer = Signer(b"k", "cookies")
    made = Session.begin("änn", "stamp", 100)
    text = made.write(signer)
    assert Session.read(text, signer, 99) == made
    assert Session.read(text, signer, 100) is None
    for wrong in ("", "a.b.c.d.e", text + "0", "ü" + text, text.replace("100", "999")):
        assert Session.read(wrong, signer, 99) is None
