"""What an OpenID Connect provider is asked: its addresses, its keys, and the ID token of a code."""

import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet

from app.encrypted_credentials import others_can_read
from app.errors import SettingsError
from app.settings import Settings
from app.web.access.provider_cache import Kept
from app.web.replies import RefusedError

_ANSWER_SECONDS = 10.0
_MOST_ANSWER_BYTES = 512 << 10
#: How long known keys serve while it is away.
_KEYS_SECONDS = 86_400.0


@dataclass(frozen=True)
class Facts:
    """What the provider says of itself.

    Attributes:
        authorization, token, keys: its addresses.
        posts_secret: whether it wants the client's secret in the form.
    """

    authorization: str
    token: str
    keys: str
    posts_secret: bool


class Provider:
    """One provider; asks it as seldom as possible.

    Args:
        settings: where it is, and who we are there.
        clock: seconds that never go back.

    Raises:
        SettingsError: the file of certificate authorities cannot be used.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.issuer = settings.web_oidc_issuer or ""
        self._client = settings.web_oidc_client_id or ""
        secret = settings.web_oidc_client_secret
        self._secret = secret.get_secret_value() if secret else None
        self._unencrypted = settings.allow_unencrypted_credentials
        self._facts = Kept(self._ask_facts, clock)
        self._keys = Kept(self._ask_keys, clock, _KEYS_SECONDS)
        file = settings.web_oidc_ca_file
        try:
            self._tls = ssl.create_default_context(cafile=None if file is None else str(file))
        except OSError as error:  # an ssl.SSLError is one
            msg = f"FRAUDSTREAM_WEB_OIDC_CA_FILE={file} cannot be used: {error.strerror or error}"
            raise SettingsError(msg) from None

    async def facts(self) -> Facts:
        """Its addresses.

        Raises:
            RefusedError: it does not answer, or says nothing that can be used.
        """
        return await self._facts.get()

    async def keys(self, *, again: bool = False) -> KeySet:
        """The keys by which it signs.

        Args:
            again: ask for them even if they are known: it may have new ones.

        Raises:
            RefusedError: it does not answer.
        """
        return await self._keys.get(again=again)

    async def _ask_facts(self) -> Facts:
        said = await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != self.issuer:
            raise RefusedError(
                503,
                f"the identity provider calls itself {str(said.get('issuer'))[:200]!r}: an operator must set "
                "FRAUDSTREAM_WEB_OIDC_ISSUER to exactly that",
            )
        ways = said.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return Facts(
            self._address(said, "authorization_endpoint"),
            self._address(said, "token_endpoint"),
            self._address(said, "jwks_uri"),
            "client_secret_basic" not in ways,
        )

    async def _ask_keys(self) -> KeySet:
        said = (await self._get((await self.facts()).keys)).get("keys")
        keys: list[Key] = []
        for key in said if isinstance(said, list) else []:
            try:  # RFC 7517, section 5: a key of a kind that we do not know is none of ours
                keys += KeySet.import_key_set({"keys": [key]}).keys
            except (JoseError, ValueError, TypeError, KeyError, AttributeError):
                continue
        if not keys:
            raise self._unusable("its keys")
        return KeySet(keys)

    async def exchange(self, code: str, redirect: str, verifier: str) -> str:
        """The ID token of a code.

        Raises:
            RefusedError: it does not answer, or refuses the code or this client.
        """
        facts = await self.facts()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
        }
        headers = {"Accept": "application/json"}
        if self._secret is None or facts.posts_secret:
            form |= {"client_id": self._client}
            form |= {"client_secret": self._secret} if self._secret is not None else {}
        else:
            pair = f"{quote(self._client, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
        status, said = await self._ask("POST", facts.token, data=form, headers=headers)
        if status >= 500:
            raise self._answers(status, facts.token)
        if status != 200:
            why = str(said.get("error", status))[:60]
            if status == 401 or why in ("invalid_client", "unauthorized_client"):
                raise RefusedError(
                    503,
                    f"the identity provider refuses this client ({why}): an operator must check "
                    "FRAUDSTREAM_WEB_OIDC_CLIENT_ID and FRAUDSTREAM_WEB_OIDC_CLIENT_SECRET",
                )
            raise RefusedError(
                401, f"the identity provider refuses this login ({why}): log in again"
            )
        token = said.get("id_token")
        if not isinstance(token, str):
            raise RefusedError(
                503,
                "the identity provider sends no ID token: an operator must have `openid` in FRAUDSTREAM_WEB_OIDC_SCOPE",
            )
        return token

    def _address(self, said: dict[str, Any], name: str) -> str:
        url = said.get(name)
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
        except ValueError:
            parts = None
        host = "" if parts is None else parts.hostname or ""
        allowed = parts is not None and (
            parts.scheme == "https"
            or (parts.scheme == "http" and not others_can_read(host, allowed=self._unencrypted))
        )
        if not allowed:
            raise self._unusable(f"its {name}")
        return str(url)

    def _unusable(self, what: str) -> RefusedError:
        return RefusedError(
            503,
            f"the identity provider {self.issuer} does not give {what} in a usable form",
        )

    async def _get(self, url: str) -> dict[str, Any]:
        status, said = await self._ask("GET", url)
        if status != 200:
            raise self._answers(status, url)
        return said

    @staticmethod
    def _answers(status: int, url: str) -> RefusedError:
        return RefusedError(503, f"the identity provider answers {status} at {url}{_LATER}")

    async def _ask(self, method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.request(
                    method, url, ssl=self._tls, allow_redirects=False, **options
                ) as answer,
            ):
                body = await answer.content.read(_MOST_ANSWER_BYTES)
                while not answer.content.at_eof() and len(body) < _MOST_ANSWER_BYTES:
                    body += await answer.content.read(_MOST_ANSWER_BYTES - len(body))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RefusedError(
                503,
                f"the identity provider {self.issuer} does not answer ({type(error).__name__}){_LATER}",
                retry_after=5,
            ) from None
        except ValueError:  # aiohttp has two values for one Authorization header
            raise RefusedError(
                503,
                f"the identity provider {self.issuer} cannot be queried: an operator must remove its host from .netrc, "
                "or the user from its URL; only FRAUDSTREAM_WEB_OIDC_CLIENT_ID and _CLIENT_SECRET count",
            ) from None
        try:
            said = orjson.loads(body)
        except ValueError:
            said = None
        return answer.status, said if isinstance(said, dict) else {}


_LATER = ": try again later; existing sessions continue"
