"""Signed values: the cookie of a session, CSRF tokens, and what workers ask each other. Pure but for random numbers."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

_PARTS = 5


class Signer:
    """Makes and checks signatures of one purpose.

    Args:
        secret: of the deployment.
        purpose: a signature of one purpose is worth nothing for another.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._key = hmac.digest(secret, purpose.encode(), "sha256")

    def sign(self, *parts: str | bytes) -> str:
        """The signature of some values in this order."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            mac.update(len(raw).to_bytes(8, "big") + raw)
        return mac.hexdigest()

    def fits(self, signature: str, *parts: str | bytes) -> bool:
        """Whether a signature is of these values."""
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())


@dataclass(frozen=True)
class Session:
    """What a cookie says.

    Attributes:
        name: of the user.
        stamp: of their password.
        until: epoch second.
        nonce: tells sessions of one user apart.
    """

    name: str
    stamp: str
    until: int
    nonce: str

    @classmethod
    def begin(cls, name: str, stamp: str, until: int) -> "Session":
        """A new one."""
        return cls(name, stamp, until, secrets.token_hex(8))

    def write(self, signer: Signer) -> str:
        """The cookie's value."""
        name = base64.urlsafe_b64encode(self.name.encode()).decode().rstrip("=")
        parts = (name, self.stamp, str(self.until), self.nonce)
        return ".".join((*parts, signer.sign(*parts)))

    @classmethod
    def read(cls, text: str, signer: Signer, now: float) -> "Session | None":
        """What a cookie says, if it is one of ours and not over."""
        parts = text.split(".")
        if len(parts) != _PARTS or not text.isascii() or not signer.fits(parts[4], *parts[:4]):
            return None
        name = base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)).decode()
        found = cls(name, parts[1], int(parts[2]), parts[3])
        return found if now < found.until else None
