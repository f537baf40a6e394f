"""Login at an identity provider: a real one over HTTP, and a client that follows it as a browser does."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from joserfc.jwk import RSAKey
from joserfc.jwt import decode as jwt_decode
from yarl import URL

from app.errors import SettingsError
from app.oidc_settings import roles_by_value
from app.settings import load_settings
from app.web.access.provider_cache import Kept
from app.web.access.users import password_line, token_line
from app.web.login_page import _local
from app.web.replies import RefusedError
from tests.oidc_provider import CLIENT, SECRET, Provider, query_of
from tests.web_worker import DictWorker, client_of

HTML = {"Accept": "text/html"}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


def worker_of(provider: Provider, **settings: Any) -> DictWorker:
    known: dict[str, Any] = {
        "web_login": "always",
        "web_secret": "s" * 32,
        "web_oidc_issuer": provider.issuer,
        "web_oidc_client_id": CLIENT,
        "web_oidc_client_secret": SECRET,
        "web_oidc_roles": "fraud-team=analyst, fraud-ops=operator, all=viewer",
    }
    worker = DictWorker(**(known | settings))
    worker.add("c1", [0])
    return worker


class Browser:
    """Follows redirects one by one, as a browser with a cookie jar does.

    Args:
        client: of the worker's pages.
    """

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.lines: list[str] = []

    async def get(self, path: str) -> aiohttp.ClientResponse:
        return await self.client.get(path, headers=HTML, allow_redirects=False)

    async def go(self, path: str = "/login/oidc?next=/cards/c1/") -> str:
        """The address with which the provider sends the browser back."""
        answer = await self.get(path)
        assert answer.status == 303, await answer.text()
        async with (
            aiohttp.ClientSession() as elsewhere,
            elsewhere.get(answer.headers["Location"], allow_redirects=False) as sent,
        ):
            assert sent.status == 302
            return sent.headers["Location"]

    async def come_back(self, address: str) -> tuple[int, str]:
        """Status, and where it leads or what the page says."""
        answer = await self.get(URL(address).raw_path_qs)
        return answer.status, answer.headers.get("Location") or await answer.text()

    async def log_in(self) -> tuple[int, str]:
        return await self.come_back(await self.go())


async def test_a_person_logs_in_and_has_the_role_of_the_claim(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        assert (await browser.get("/cards/c1/")).headers["Location"] == "/login?next=/cards/c1/"
        form = await (await browser.get("/login?next=/cards/c1/")).text()
        assert 'href="/login/oidc?next=/cards/c1/"' in form
        assert "password" not in form  # there are no local users
        with caplog.at_level(logging.INFO, "fraudstream.audit"):
            assert await browser.log_in() == (303, "/cards/c1/")
        audit = json.loads(caplog.records[-1].getMessage())
        assert (audit["audit"], audit["by"], audit["role"]) == ("/login/callback", "ann", "analyst")
        page = await browser.get("/cards/c1/")
        assert page.status == 200
        assert "ann" in await page.text()
        answer = await client.post("/logout", headers=HTML, allow_redirects=False)
        assert answer.status == 403  # a form without its CSRF token


@pytest.mark.parametrize(
    ("groups", "path", "status"),
    [
        (["all"], "/", 200),
        (["all"], "/cards/c1/", 403),
        (["all", "fraud-team", "unknown"], "/cards/c1/", 200),
        ("fraud-ops", "/cards/c1/", 200),
    ],
    ids=["viewer", "viewer-card", "highest", "text"],
)
async def test_roles(provider: Provider, groups: Any, path: str, status: int) -> None:
    provider.claims["groups"] = groups
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        assert (await browser.log_in())[0] == 303
        assert (await browser.get(path)).status == status


async def test_a_claim_may_be_inside_an_object(provider: Provider) -> None:
    provider.claims = {
        "sub": "1",
        "realm_access": {"roles": ["fraud-ops"]},
        "email": "ann@bank.example",
        "email_verified": True,
    }
    names = {"web_oidc_roles_claim": "realm_access.roles", "web_oidc_name_claim": "email"}
    async with client_of(worker_of(provider, **names)) as client:
        browser = Browser(client)
        assert (await browser.log_in())[0] == 303
        assert "ann@bank.example" in await (await browser.get("/")).text()


@pytest.mark.parametrize(
    ("claims", "status", "says"),
    [
        ({"groups": ["others"]}, 403, "ann has no role here: none of the values of claim"),
        ({"groups": None}, 403, "ann has no role here"),
        ({"aud": "another-client"}, 401, "claim &#39;aud&#39; is missing or not what"),
        ({"aud": [CLIENT, "another"]}, 401, "made for another client (azp)"),
        ({"azp": "another"}, 401, "made for another client (azp)"),
        ({"iss": "https://elsewhere.example"}, 401, "claim &#39;iss&#39; is missing or not what"),
        ({"nonce": "of another login"}, 401, "claim &#39;nonce&#39; is missing or not what"),
        ({"nonce": None}, 401, "claim &#39;nonce&#39; is missing"),
        ({"exp": 1}, 401, "it has expired"),
        ({"exp": None}, 401, "claim &#39;exp&#39; is missing"),
        ({"sub": "a\nb"}, 403, "no usable claim &#39;sub&#39;"),
        ({"sub": " ann"}, 403, "no usable claim &#39;sub&#39;"),
        ({"sub": "Local"}, 403, "Local is also a user or token of FRAUDSTREAM_WEB_USERS, or a name that"),
    ],
    ids=["no-role", "no-groups", "audience", "audiences", "azp", "issuer", "nonce", "no-nonce", "expired",
         "no-expiry", "name", "blank", "reserved"],
)  # fmt: skip
async def test_a_token_that_does_not_fit_is_refused_in_one_line(
    provider: Provider,
    claims: dict[str, Any],
    status: int,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider.claims |= claims
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        with caplog.at_level(logging.INFO, "fraudstream.audit"):
            found, text = await browser.log_in()
        assert (found, says in text) == (status, True), text
        (audit,) = (json.loads(r.getMessage()) for r in caplog.records if r.name.endswith("audit"))
        assert (audit["audit"], audit["status"]) == ("/login/callback", status)
        assert says.replace("&#39;", "'") in audit["why"]
        assert 'href="/login/oidc?next=/cards/c1/"' in text  # and may try again
        assert "fraudstream-oidc" not in [cookie.key for cookie in client.session.cookie_jar]
        assert (await browser.get("/")).status == 303  # no session


async def test_the_answer_belongs_to_the_browser_that_asked(provider: Provider) -> None:
    worker = worker_of(provider)
    async with client_of(worker) as client, client_of(worker) as other:
        address = await Browser(client).go()
        # login CSRF: somebody's own code and state in another browser
        assert (await Browser(other).come_back(address))[0] == 403
        begun = Browser(other)
        await begun.go()
        assert (await begun.come_back(address))[0] == 403
        # a state that was changed
        browser = Browser(client)
        status, text = await browser.come_back(address.replace("state=", "state=x"))
        assert (status, "was not begun in this browser" in text) == (403, True)
        # a code of another login: its verifier is another
        second = await browser.go()
        mixed = (
            f"/login/callback?code={query_of(address)['code']}&state={query_of(second)['state']}"
        )
        status, text = await browser.come_back(mixed)
        assert (status, "refuses this login (invalid_grant)" in text) == (401, True)


async def test_a_code_works_once(provider: Provider) -> None:
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        address = await browser.go()
        cookies = {c.key: c.value for c in client.session.cookie_jar}
        assert (await browser.come_back(address))[0] == 303
        client.session.cookie_jar.update_cookies(
            cookies
        )  # a browser that kept what it should have deleted
        assert (await browser.come_back(address))[0] == 401


async def test_a_login_is_not_begun_for_ever(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.access.oidc._LOGIN_SECONDS", -1)
    async with client_of(worker_of(provider)) as client:
        status, text = await Browser(client).log_in()
        assert (status, "too long ago: log in again" in text) == (403, True)


async def test_a_new_key_is_fetched_and_a_strange_one_is_not_trusted(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        assert (await browser.log_in())[0] == 303
        assert (await browser.log_in())[0] == 303
        assert provider.asked["/keys"] == 1
        monkeypatch.setattr("app.web.access.provider_cache._PAUSE_SECONDS", -1)
        provider.rotate()
        assert (await browser.log_in())[0] == 303
        assert provider.asked["/keys"] == 2
        kid = provider.signing.kid
        provider.signing = RSAKey.generate_key(2048, {"kid": "strange", "use": "sig"})
        status, text = await browser.log_in()
        assert (status, "a key that the provider does not publish" in text) == (401, True)
        provider.signing = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
        status, text = await browser.log_in()
        assert (status, "its signature is wrong" in text) == (401, True)
        # nobody makes us ask the provider for each token
        monkeypatch.setattr("app.web.access.provider_cache._PAUSE_SECONDS", 60)
        asked = provider.asked["/keys"]
        for _ in range(3):
            assert (await browser.log_in())[0] == 401
        assert provider.asked["/keys"] == asked


async def test_while_the_provider_is_away_sessions_go_on(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(provider)
    async with client_of(worker) as client, client_of(worker) as late:
        browser = Browser(client)
        assert (await browser.log_in())[0] == 303
        begun = await browser.go()
        provider.down = True
        answer = await Browser(late).get("/login/oidc")
        text = await answer.text()
        assert answer.status == 503
        assert "the identity provider answers 503" in text
        assert "try again later; existing sessions continue" in text
        assert (await browser.come_back(begun))[0] == 503
        assert (await browser.get("/cards/c1/")).status == 200
        asked = dict(provider.asked)
        assert (await Browser(late).get("/login/oidc")).status == 503
        assert provider.asked == asked  # not again at once
        monkeypatch.setattr("app.web.access.provider_cache._PAUSE_SECONDS", -1)
        await provider.server.close()
        answer = await Browser(late).get("/login/oidc")
        assert f"the identity provider {provider.issuer} does not answer" in await answer.text()
        assert (await browser.get("/cards/c1/")).status == 200


async def test_another_worker_can_finish_a_login(provider: Provider) -> None:
    async with client_of(worker_of(provider)) as one, client_of(worker_of(provider)) as two:
        address = await Browser(one).go()
        two.session.cookie_jar.update_cookies({c.key: c.value for c in one.session.cookie_jar})
        back = f"http://127.0.0.1:{one.port}"
        answer = await two.get(
            URL(address).raw_path_qs, headers={**HTML, "Host": back.removeprefix("http://")}, allow_redirects=False
        )  # fmt: skip
        assert answer.status == 303, await answer.text()


async def test_a_changed_setting_ends_sessions(provider: Provider, tmp_path: Any) -> None:
    async with client_of(worker_of(provider)) as client:
        assert (await Browser(client).log_in())[0] == 303
        cookies = {c.key: c.value for c in client.session.cookie_jar}
    users = tmp_path / "users"
    users.write_text(token_line("Ann", "viewer")[1] + "\n")
    for settings, status in (
        ({}, 200),
        ({"web_oidc_roles": "x=analyst"}, 303),
        ({"web_oidc_name_claim": "email"}, 303),
        ({"web_users": users}, 303),  # a namesake by now
    ):
        async with client_of(worker_of(provider, **settings)) as client:
            client.session.cookie_jar.update_cookies(cookies)
            assert (await Browser(client).get("/cards/c1/")).status == status


async def test_a_wrong_client_secret_is_the_operator_s(provider: Provider) -> None:
    async with client_of(worker_of(provider, web_oidc_client_secret="wrong")) as client:
        status, text = await Browser(client).log_in()
        assert (status, "check FRAUDSTREAM_WEB_OIDC_CLIENT_ID and" in text) == (503, True)
        assert "wrong" not in text


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (password_line("ann", "viewer", "a password"), "ann"),
        (token_line("ann", "viewer")[1], "ann"),
        (token_line("ann", "viewer")[1], "ANN"),
    ],
    ids=["user", "token", "case"],
)
async def test_nobody_takes_the_name_of_a_local_user(
    provider: Provider, tmp_path: Any, line: str, name: str
) -> None:
    users = tmp_path / "users"
    users.write_text(line + "\n")
    provider.claims["sub"] = name
    async with client_of(worker_of(provider, web_users=users)) as client:
        browser = Browser(client)
        assert "password" in await (await browser.get("/login")).text()
        status, text = await browser.log_in()
        assert (status, f"{name} is also a user or token of FRAUDSTREAM_WEB_USERS" in text) == (
            403,
            True,
        )


async def test_cookies_are_safe(provider: Provider) -> None:
    async with client_of(worker_of(provider, web_host="0.0.0.0")) as client:
        answer = await client.get("/login/oidc", headers=HTML, allow_redirects=False)
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-fraudstream-oidc=")
        for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"):
            assert attribute in cookie
        where = query_of(answer.headers["Location"])
        assert where["redirect_uri"] == f"http://127.0.0.1:{client.port}/login/callback"
        # the secret parts stay with the browser
        assert len(where["code_challenge"]) == 43
        answer = await client.get(
            "/login/oidc", headers={**HTML, "X-Forwarded-Proto": "https"}, allow_redirects=False
        )
        assert query_of(answer.headers["Location"])["redirect_uri"].startswith("https://")


async def test_another_issuer_is_not_taken_for_ours(provider: Provider) -> None:
    async with client_of(worker_of(provider, web_oidc_issuer=f"{provider.issuer}/")) as client:
        answer = await Browser(client).get("/login/oidc")
        assert answer.status == 503
        assert "must set FRAUDSTREAM_WEB_OIDC_ISSUER to exactly that" in await answer.text()


async def test_without_a_provider_there_is_no_such_login() -> None:
    async with client_of(DictWorker(web_login="always")) as client:
        assert (await client.get("/login/oidc", headers=HTML)).status == 404
        assert (await client.get("/login/callback?code=1&state=2", headers=HTML)).status == 404


def test_the_path_afterwards_is_ours() -> None:
    for target in ("//evil.example/", "//[", "/\\evil.example", "https://evil.example/"):
        assert _local(target) == "/"
    assert _local("/cards/c1/?a=b") == "/cards/c1/?a=b"


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"web_oidc_issuer": "https://i.example"}, "needs FRAUDSTREAM_WEB_OIDC_CLIENT_ID and"),
        ({"web_oidc_client_id": "x"}, "need FRAUDSTREAM_WEB_OIDC_ISSUER"),
        ({"web_oidc_issuer": "i.example", "web_oidc_client_id": "x", "web_oidc_roles": "a=viewer"}, "is not a URL"),
        ({"web_oidc_issuer": "http://i.example", "web_oidc_client_id": "x", "web_oidc_roles": "a=viewer"},
         "without encryption"),
        ({"web_oidc_roles": "a=boss"}, "write VALUE=ROLE, with one of the roles"),
        ({"web_oidc_roles": "a=viewer,a=operator"}, "'a' has two roles: write it once"),
        ({"web_oidc_issuer": "https://i.example", "web_oidc_client_id": "x", "web_oidc_audience": "x",
          "web_oidc_roles": "a=viewer"}, "AUDIENCE must not be the client id"),
    ],
    ids=["no-client", "no-issuer", "no-url", "http", "no-role", "twice", "audience"],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(values: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(values)


async def test_programs_may_send_access_tokens_of_the_provider(provider: Provider) -> None:
    def bearer() -> dict[str, str]:
        return {"Authorization": f"Bearer {provider.token('')}", "Accept": "application/json"}

    provider.claims |= {"aud": "fraud-api", "nonce": None, "sub": "batch-job"}
    async with client_of(worker_of(provider, web_oidc_audience="fraud-api")) as client:
        assert (await client.get("/cards/c1/", headers=bearer())).status == 200
        provider.claims["groups"] = ["all"]
        answer = await client.get("/cards/c1/", headers=bearer())
        assert (answer.status, "batch-job has viewer" in await answer.text()) == (403, True)
        for claims, says in (
            (
                {"aud": CLIENT},
                "the access token is refused: its claim 'aud'",
            ),  # an ID token is none
            ({"nonce": "n"}, "the access token is refused: it is an ID token (claim 'nonce')"),
            ({"events": {}}, "it is a logout or event token"),
            ({"exp": 1}, "it has expired"),
            ({"groups": []}, "batch-job has no role here"),
        ):
            kept, provider.claims = provider.claims, provider.claims | claims
            answer = await client.get("/", headers=bearer())
            assert (answer.status in (401, 403), says in await answer.text()) == (True, True), (
                claims
            )
            provider.claims = kept
        assert (await client.get("/", headers={"Authorization": "Bearer a.b.c"})).status == 401
        assert (await client.get("/", headers={"Authorization": "Bearer opaque"})).status == 401
    async with client_of(worker_of(provider)) as client:  # not set: no such token is accepted
        assert (await client.get("/", headers=bearer())).status == 401


API = {"aud": "fraud-api", "nonce": None, "sub": "batch-job"}


async def test_strangers_do_not_make_us_ask_the_provider(provider: Provider) -> None:
    async def send(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        return (await client.get("/", headers=headers)).status

    provider.claims |= API
    known, strange = provider.signing, RSAKey.generate_key(2048, {"kid": "strange", "use": "sig"})
    good = provider.token("")
    async with client_of(worker_of(provider, web_oidc_audience="fraud-api")) as client:
        assert await send(good) == 200
        provider.signing = strange
        found = await asyncio.gather(*(send(provider.token("")) for _ in range(100)))
        assert set(found) <= {401, 429}
        assert provider.asked["/keys"] <= 2
        # this address is at its limit; programs and people behind the same proxy go on
        assert await send(provider.token("")) == 429
        assert await send(good) == 200
        assert provider.asked["/keys"] <= 2
        assert (await Browser(client).get("/login/oidc")).status == 303
        # logins have a limit of their own
        for _ in range(60):
            await Browser(client).get("/login/callback?code=1&state=2")
        for path in ("/login/oidc", "/login/callback?code=1&state=2"):
            assert (await Browser(client).get(path)).status == 429
    provider.signing = known
    provider.down = True
    before = dict(provider.asked)
    async with client_of(worker_of(provider, web_oidc_audience="fraud-api")) as client:
        assert set(await asyncio.gather(*(send(good) for _ in range(100)))) <= {503, 429}
    assert provider.asked == before | {
        "/.well-known/openid-configuration": before["/.well-known/openid-configuration"] + 1
    }


async def test_an_address_that_nobody_has_verified_is_no_name(provider: Provider) -> None:
    async with client_of(worker_of(provider, web_oidc_name_claim="email")) as client:
        for verified in (None, False, "true"):
            provider.claims |= {"email": "ann@bank.example", "email_verified": verified}
            status, text = await Browser(client).log_in()
            assert (status, "needs email_verified=true" in text) == (403, True)


async def test_known_keys_serve_while_the_provider_is_away() -> None:
    now, away = 0.0, True

    async def ask() -> str:
        if away:
            raise RefusedError(503, "away", retry_after=5)
        return "keys"

    kept = Kept(ask, lambda: now, 86_400)
    with pytest.raises(RefusedError, match="away"):
        await kept.get()
    away = False
    with pytest.raises(RefusedError, match="away"):  # not asked again at once
        await kept.get()
    now = 6.0
    assert await kept.get() == "keys"
    away = True
    now += 86_400
    assert await kept.get() == "keys"
    with pytest.raises(RefusedError, match="away"):
        await kept.get(again=True)
    now += 6
    with pytest.raises(RefusedError, match="away"):
        await kept.get()


async def test_few_requests_wait_for_a_newer_value() -> None:
    answers: list[asyncio.Future[str]] = []

    async def ask() -> str:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    now = 0.0
    kept = Kept(ask, lambda: now)
    first = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    answers[0].set_result("old")
    assert await first == "old"
    now = 6.0
    waiting = [asyncio.create_task(kept.get(again=True)) for _ in range(100)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [task.result() for task in waiting if task.done()] == ["old"] * 80
    answers[1].set_result("new")
    assert set(await asyncio.gather(*waiting)) == {"old", "new"}
    assert len(answers) == 2


async def test_a_wrong_signature_is_verified_once(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.access.provider_cache._PAUSE_SECONDS", 3_600.0)
    provider.claims |= API
    good = provider.token("")
    kid = provider.signing.as_dict()["kid"]
    provider.signing = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
    verified = []

    def decode(*arguments: Any) -> Any:
        verified.append(arguments[0])
        return jwt_decode(*arguments)

    monkeypatch.setattr("app.web.access.oidc.jwt.decode", decode)
    async with client_of(worker_of(provider, web_oidc_audience="fraud-api")) as client:
        for token, status in ((good, 200), (provider.token(""), 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await client.get("/", headers=headers)).status == status
    assert len(verified) == 2


async def test_a_key_of_an_unknown_kind_stops_no_login(provider: Provider) -> None:
    provider.odd_keys = [
        {"kty": "EC", "crv": "brainpoolP256r1", "x": "AA", "y": "AA", "kid": "1"},
        {"kty": "RSA", "n": "AQAB", "kid": "2"},
        {"kty": "new", "kid": "3"},
        None,
    ]
    async with client_of(worker_of(provider)) as client:
        assert (await Browser(client).log_in())[0] == 303
    provider._published = []
    async with client_of(worker_of(provider)) as client:
        status, text = await Browser(client).log_in()
        assert (status, "does not give its keys in a usable form" in text) == (503, True)


async def test_after_a_logout_the_provider_asks_again(provider: Provider) -> None:
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)

        async def prompt() -> str | None:
            where = (await browser.get("/login/oidc")).headers["Location"]
            return query_of(where).get("prompt")

        assert await prompt() is None
        assert (await browser.log_in())[0] == 303
        page = await (await browser.get("/")).text()
        answer = await client.post(
            "/logout",
            data={"csrf": re.findall('name="csrf" value="([^"]+)"', page)[0]},
            headers={**HTML, "Origin": f"http://127.0.0.1:{client.port}"},
            allow_redirects=False,
        )
        assert answer.status == 303, await answer.text()
        assert (await browser.get("/")).status == 303
        assert await prompt() == "login"
        assert (await browser.log_in())[0] == 303
        assert await prompt() is None


async def test_a_netrc_entry_is_the_operator_s(
    provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    async with client_of(worker_of(provider)) as client:
        browser = Browser(client)
        address = await browser.go()
        monkeypatch.setenv("NETRC", str(netrc))
        status, text = await browser.come_back(address)
        assert (status, "must remove its host from .netrc" in text) == (503, True), text


async def test_without_a_secret_workers_could_not_finish_each_other_s_logins(
    provider: Provider,
) -> None:
    with pytest.raises(SettingsError, match="needs FRAUDSTREAM_WEB_SECRET"):
        async with client_of(worker_of(provider, web_secret=None)):
            pass


def test_group_names_may_have_commas() -> None:
    assert roles_by_value("CN=Fraud,OU=Groups=analyst;") == {"CN=Fraud,OU=Groups": "analyst"}
    assert roles_by_value("CN=a,OU=b=viewer; ops=operator") == {
        "CN=a,OU=b": "viewer",
        "ops": "operator",
    }
