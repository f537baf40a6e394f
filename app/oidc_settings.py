"""Settings of the login at an identity provider (OpenID Connect); see app/settings.py."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from app.connection_settings import AccessSettings

#: As in app/web/roles.py, which settings must not import.
_ROLES = ("viewer", "analyst", "operator")


def roles_by_value(text: str) -> dict[str, str]:
    """The role of each value of the claim.

    Raises:
        ValueError: it is not VALUE=ROLE, separated by commas, or by semicolons where there is one; or a value is there
            twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (one.strip() for one in text.split(";" if ";" in text else ","))):
        value, _, role = part.rpartition("=")
        if not value.strip() or role.strip() not in _ROLES:
            msg = (
                f"{part!r}: write VALUE=ROLE, with one of the roles {', '.join(_ROLES)}; where a value has a comma, "
                "end each pair with a semicolon"
            )
            raise ValueError(msg)
        if value.strip() in found:
            msg = f"{value.strip()!r} has two roles: write it once"
            raise ValueError(msg)
        found[value.strip()] = role.strip()
    return found


class OidcSettings(AccessSettings):
    """Who vouches for people, and for what."""

    web_oidc_issuer: str | None = Field(
        None,
        description="OpenID Connect provider at which people log in to the web pages: its issuer URL, without "
        "/.well-known/openid-configuration",
    )
    web_oidc_client_id: str | None = Field(
        None, description="client id of the web pages at the OpenID Connect provider"
    )
    web_oidc_client_secret: SecretStr | None = Field(
        None, description="secret of this client; unset: a public client"
    )
    web_oidc_scope: str = Field(
        "openid", description="scope of the login; the provider may need more for the roles claim"
    )
    web_oidc_roles: str = Field(
        "",
        description="web role for each value of the roles claim, as VALUE=ROLE,..., such as "
        "fraud-team=analyst,fraud-ops=operator. People without any of these values are refused. If a value "
        "contains a comma, separate the pairs with semicolons instead: VALUE=ROLE;VALUE=ROLE;",
    )
    web_oidc_roles_claim: str = Field(
        "groups",
        description="claim of the ID token with the groups or roles of a person; dots reach into objects: "
        "realm_access.roles",
    )
    web_oidc_name_claim: str = Field(
        "sub",
        description="claim that names a person in audit records; it must be unique at the provider",
    )
    web_oidc_audience: str | None = Field(
        None,
        description="`aud` that a program's JWT access token must have; it must not be the client id; unset: such "
        "tokens are refused",
    )
    web_oidc_ca_file: Path | None = Field(
        None,
        description="certificate authorities of the provider, PEM; unset: those of the system",
    )

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        roles = roles_by_value(self.web_oidc_roles)
        issuer = self.web_oidc_issuer
        if issuer is None:
            if self.web_oidc_client_id or self.web_oidc_client_secret or roles:
                msg = "FRAUDSTREAM_WEB_OIDC_CLIENT_ID, _CLIENT_SECRET and _ROLES need FRAUDSTREAM_WEB_OIDC_ISSUER"
                raise ValueError(msg)
            return self
        if not self.web_oidc_client_id or not roles:
            msg = "FRAUDSTREAM_WEB_OIDC_ISSUER needs FRAUDSTREAM_WEB_OIDC_CLIENT_ID and FRAUDSTREAM_WEB_OIDC_ROLES"
            raise ValueError(msg)
        if self.web_oidc_audience == self.web_oidc_client_id:
            msg = (
                "FRAUDSTREAM_WEB_OIDC_AUDIENCE must not be the client id: ID tokens of people have that audience, and "
                "would pass for access tokens"
            )
            raise ValueError(msg)
        url = urlsplit(issuer)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            msg = f"FRAUDSTREAM_WEB_OIDC_ISSUER={issuer} is not a URL such as https://login.bank.example/realms/staff"
            raise ValueError(msg)
        return self
