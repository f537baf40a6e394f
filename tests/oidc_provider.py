"""An OpenID Connect provider for tests: real HTTP, real keys, real checks of PKCE and of the client."""

import asyncio
import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "fraud-pages", "s3cret/of+the client"


class Provider:
    """Logs everybody in as `claims` say.

    Attributes:
        claims: of the next ID tokens, beside those that every one has; a None takes one out.
        asked: how often by path.
        odd_keys: what it publishes beside its own.
        down: whether it answers nothing but errors.
        secret: of its client.
    """

    def __init__(self, secret: str = SECRET) -> None:
        self.secret = secret
        self.claims: dict[str, Any] = {"sub": "ann", "groups": ["fraud-team"]}
        self.asked: dict[str, int] = {}
        self.odd_keys: list[Any] = []
        self.down = False
        self.signing: RSAKey = self.rotate()
        self.issuer = ""
        self._codes: dict[str, dict[str, str]] = {}
        application = web.Application(middlewares=[self._count])
        application.router.add_get("/.well-known/openid-configuration", self._facts)
        application.router.add_get("/keys", self._keys)
        application.router.add_get("/authorize", self._authorize)
        application.router.add_post("/token", self._token)
        self.server = TestServer(application)

    async def __aenter__(self) -> "Provider":
        await self.server.start_server()
        self.issuer = str(self.server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()

    def rotate(self) -> RSAKey:
        """Sign with a new key, and publish that one only."""
        self.signing = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})
        self._published = [self.signing.as_dict(private=False)]
        return self.signing

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> Any:
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        if self.down:
            raise web.HTTPServiceUnavailable
        return await handler(request)

    async def _facts(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
        )

    async def _keys(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [*self.odd_keys, *self._published]})

    async def _authorize(self, request: web.Request) -> web.Response:
        """The person logs in at once."""
        asked = dict(request.query)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        back = urlencode({"code": code, "state": asked["state"]})
        raise web.HTTPFound(f"{asked['redirect_uri']}?{back}")

    async def _token(self, request: web.Request) -> web.Response:
        kind, _, pair = request.headers.get("Authorization", "").partition(" ")
        assert kind == "Basic"
        client, _, secret = base64.b64decode(pair).decode().partition(":")
        if (unquote(client), unquote(secret)) != (CLIENT, self.secret):
            return web.json_response({"error": "invalid_client"}, status=401)
        form = parse_qs(await request.text())
        begun = self._codes.pop(form["code"][0], None)  # a code is used once
        digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            begun is None
            or begun["code_challenge"] != challenge
            or begun["redirect_uri"] != form["redirect_uri"][0]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"token_type": "Bearer", "id_token": self.token(begun["nonce"])})

    def token(self, nonce: str) -> str:
        """An ID token as `claims` and `signing` say."""
        now = int(time.time())
        known = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce}
        claims = {k: v for k, v in (known | self.claims).items() if v is not None}
        return jwt.encode({"alg": "RS256", "kid": self.signing.kid}, claims, self.signing)


@contextmanager
def running(provider: Provider) -> Iterator[None]:
    """Its server in a thread of its own, for tests that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(awaitable: Any) -> None:
        asyncio.run_coroutine_threadsafe(awaitable, loop).result(60)

    call(provider.__aenter__())
    try:
        yield
    finally:
        call(provider.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def query_of(url: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
