"""Login at an identity provider: OpenID Connect, authorization code flow with PKCE (RFC 7636).

```text
/login/oidc      a cookie with state, nonce and verifier; the browser goes to the provider
/login/callback  state and cookie fit; code ─► ID token: signature, issuer, audience, nonce, times; claim ─► role
```

The provider is asked during a login only. While it is away, nobody can log in by it; sessions go on.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError

from app.oidc_settings import roles_by_value
from app.settings import Settings
from app.web.access.oidc_provider import Provider
from app.web.access.signed_values import Signer
from app.web.replies import RefusedError
from app.web.roles import Role

#: What a provider signs with: its own key. A shared secret could be guessed, and `none` is no signature.
_ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]
#: How long somebody may take to log in; how far the provider's clock may be off.
_LOGIN_SECONDS, _LEEWAY_SECONDS = 600, 60
_MOST_NAME, _MOST_NEXT = 200, 1_000
_PARTS = 6
#: In a signed token.
_DOTS = 2


@dataclass(frozen=True)
class Pending:
    """A login that has begun, as the browser's cookie has it.

    Attributes:
        state: what the provider sends back: the answer belongs to this browser.
        nonce: what the ID token must have: it was made for this login.
        verifier: whose hash the provider got: only who began the login can use the code.
        until: epoch second.
        next: the path to go to afterwards.
    """

    state: str
    nonce: str
    verifier: str
    until: int
    next: str

    def write(self, signer: Signer) -> str:
        """The cookie's value."""
        after = base64.urlsafe_b64encode(self.next.encode()).decode().rstrip("=")
        parts = (self.state, self.nonce, self.verifier, str(self.until), after)
        return ".".join((*parts, signer.sign(*parts)))

    @classmethod
    def read(cls, text: str, signer: Signer, now: float) -> "Pending | None":
        """What a cookie says, if it is one of ours and not over."""
        *parts, signature = text.split(".")
        if len(parts) != _PARTS - 1 or not text.isascii() or not signer.fits(signature, *parts):
            return None
        after = base64.urlsafe_b64decode(parts[4] + "=" * (-len(parts[4]) % 4)).decode()
        found = cls(parts[0], parts[1], parts[2], int(parts[3]), after)
        return found if now < found.until else None


class Oidc:
    """People who log in at a provider.

    Args:
        settings: of the provider.
        signer: of the cookie of a login that has begun.
        now: epoch seconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = settings.web_oidc_client_id or ""
        self._scope = settings.web_oidc_scope
        self._roles = {
            value: Role[role.upper()]
            for value, role in roles_by_value(settings.web_oidc_roles).items()
        }
        self._roles_claim = settings.web_oidc_roles_claim
        self._name_claim = settings.web_oidc_name_claim
        self._audience = settings.web_oidc_audience
        self._provider = Provider(settings, clock)
        self._signer, self._now = signer, now
        # a session ends when any of this changes
        told = (
            self._provider.issuer,
            self._client,
            settings.web_oidc_roles,
            self._roles_claim,
            self._name_claim,
        )
        self._digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    async def begin(self, redirect: str, after: str, *, again: bool = False) -> tuple[str, str]:
        """Where the browser goes to log in, and the cookie that it must come back with.

        Args:
            redirect: the address to which the provider sends it back.
            after: the path to go to then.
            again: whether the provider must ask for the credentials, even if it remembers somebody.

        Raises:
            RefusedError: the provider does not answer.
        """
        facts = await self._provider.facts()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._client,
            "redirect_uri": redirect,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            **({"prompt": "login"} if again else {}),
        }
        until = int(self._now()) + _LOGIN_SECONDS
        pending = Pending(state, nonce, verifier, until, after[:_MOST_NEXT])
        join = "&" if "?" in facts.authorization else "?"
        where = f"{facts.authorization}{join}{urlencode(query, quote_via=quote)}"
        return where, pending.write(self._signer)

    def pending(self, cookie: str, state: str) -> Pending:
        """The login that a browser has begun and comes back from.

        Raises:
            RefusedError: it has begun none, or another one.
        """
        found = Pending.read(cookie, self._signer, self._now())
        if found is None or not secrets.compare_digest(found.state.encode(), state.encode()):
            raise RefusedError(
                403, "this login was not begun in this browser, or too long ago: log in again"
            )
        return found

    async def finish(self, pending: Pending, code: str, redirect: str) -> tuple[str, Role]:
        """Who has logged in, and their role.

        Raises:
            RefusedError: the provider does not answer, or says something else; or the person has no role here.
        """
        token = await self._provider.exchange(code, redirect, pending.verifier)
        what = "the provider's ID token"
        claims = await self._verified(token, what, self._client, pending.nonce)
        azp, many = claims.get("azp"), isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (many or azp is not None) and azp != self._client:
            raise RefusedError(401, f"{what} is refused: it was made for another client (azp)")
        return self._person(claims)

    def is_for_us(self, token: str) -> bool:
        """Whether a bearer token is to be verified here: a signed one, if any is accepted."""
        return self._audience is not None and token.count(".") == _DOTS

    async def of_bearer(self, token: str) -> tuple[str, Role]:
        """Name and role by an access token of the provider.

        Raises:
            RefusedError: it is not valid here, or its bearer has no role; or the provider does not answer.
        """
        what = "the access token"
        claims = await self._verified(token, what, self._audience or "")
        for claim, kind in (("nonce", "an ID token"), ("events", "a logout or event token")):
            if claim in claims:
                raise RefusedError(401, f"{what} is refused: it is {kind} (claim {claim!r})")
        return self._person(claims)

    def _person(self, claims: dict[str, Any]) -> tuple[str, Role]:
        name = claims.get(self._name_claim)
        if (
            not isinstance(name, str)
            or name.split() != [name]
            or not name.isprintable()
            or len(name) > _MOST_NAME
        ):
            raise RefusedError(
                403,
                f"the token has no usable claim {self._name_claim!r}: an operator must check "
                "FRAUDSTREAM_WEB_OIDC_NAME_CLAIM and _SCOPE",
            )
        if self._name_claim == "email" and claims.get("email_verified") is not True:
            raise RefusedError(
                403,
                "the provider does not vouch for this e-mail address: the token needs email_verified=true, or an "
                "operator must set another FRAUDSTREAM_WEB_OIDC_NAME_CLAIM",
            )
        role = max(
            (self._roles.get(value, Role.PUBLIC) for value in self._values(claims)),
            default=Role.PUBLIC,
        )
        if role is Role.PUBLIC:
            raise RefusedError(
                403,
                f"{name} has no role here: none of the values of claim {self._roles_claim!r} is in "
                "FRAUDSTREAM_WEB_OIDC_ROLES",
            )
        return name, role

    def stamp(self, role: Role) -> str:
        """What a session of this role has in the place of a password's stamp."""
        return f"oidc-{role.title}-{self._digest}"

    def role_of(self, stamp: str) -> Role | None:
        """The role of a session; None where the settings have changed since, or a local user has begun it."""
        return next((role for role in Role if role and self.stamp(role) == stamp), None)

    async def _verified(
        self, token: str, what: str, audience: str, nonce: str | None = None
    ) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "iss": {"essential": True, "value": self._provider.issuer},
            "aud": {"essential": True, "value": audience},
            **{name: {"essential": True} for name in ("sub", "exp", "iat")},
        }
        if nonce is not None:
            wanted["nonce"] = {"essential": True, "value": nonce}
        registry = jwt.JWTClaimsRegistry(
            now=lambda: int(self._now()), leeway=_LEEWAY_SECONDS, **wanted
        )
        keys = await self._provider.keys()
        try:
            try:
                claims = jwt.decode(token, keys, _ALGORITHMS).claims
            except (InvalidKeyIdError, BadSignatureError):  # it may have a new key
                newer = await self._provider.keys(again=True)
                if newer is keys:  # asked a moment ago: a signature is work
                    raise
                claims = jwt.decode(token, newer, _ALGORITHMS).claims
            registry.validate(claims)
        except (JoseError, ValueError) as error:
            raise RefusedError(401, f"{what} is refused: {_why(error)}") from None
        return dict(claims)

    def _values(self, claims: dict[str, Any]) -> list[str]:
        found: Any = claims.get(self._roles_claim)
        if found is None:  # a name with dots may be a path; some providers have URLs as names
            found = claims
            for part in self._roles_claim.split("."):
                found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str):
            return [found]
        return (
            [value for value in found if isinstance(value, str)] if isinstance(found, list) else []
        )


def _why(error: Exception) -> str:
    """A JOSE error in words; never the token."""
    claim = getattr(error, "claim", None)
    if type(error).__name__ == "ExpiredTokenError":
        return "it has expired; if that is so each time, check the clocks"
    if claim:
        return f"its claim {claim!r} is missing or not what this login expects"
    return {
        "InvalidKeyIdError": "it is signed with a key that the provider does not publish",
        "BadSignatureError": "its signature is wrong",
        "UnsupportedAlgorithmError": "it is not signed by RS, PS or ES",
    }.get(type(error).__name__, f"it is not a signed token ({type(error).__name__})")
