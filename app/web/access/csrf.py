"""Forms: a page of another site may send one with the visitor's cookie, but cannot know its CSRF token."""

import secrets

from aiohttp import web

from app.web.access.cookies import Cookies
from app.web.access.hosts import Hosts
from app.web.access.signed_values import Signer
from app.web.replies import RefusedError
from app.web.roles import CSRF_FIELD, CSRF_HEADER, NOBODY, Viewer

_MOST_BODY_BYTES = 64 << 10


class Csrf:
    """Makes and checks tokens of forms.

    Args:
        signer: of tokens.
        hosts: the names of this worker.
        cookies: where the token of a login form comes from.
    """

    def __init__(self, signer: Signer, hosts: Hosts, cookies: Cookies) -> None:
        self._signer, self._hosts, self._cookies = signer, hosts, cookies

    def token(self, nonce: str) -> str:
        """The token of all forms of a session."""
        return self._signer.sign(nonce)

    def login_token(self, nonce: str) -> str:
        """The token of a login form."""
        return self._signer.sign("login", nonce) if nonce else ""

    async def check(self, request: web.Request, asker: Viewer) -> None:
        """Refuse a form that is not ours.

        Raises:
            RefusedError: it is too long, or sent by a page of another site, or has another token.
        """
        if (request.content_length or 0) > _MOST_BODY_BYTES:
            raise RefusedError(413, f"a request has at most {_MOST_BODY_BYTES} bytes")
        if request.content_length is None and request.body_exists:
            raise RefusedError(411, "send the length of the body: Content-Length")
        if not asker.csrf and asker is not NOBODY:
            return  # a token or another worker asks: no browser sends these by itself
        origin = request.headers.get("Origin")
        if origin is not None and not self._hosts.is_origin(origin):
            raise RefusedError(403, "this form was sent by a page of another site")
        sent = request.headers.get(CSRF_HEADER)
        if sent is None:
            sent = str((await request.post()).get(CSRF_FIELD, ""))
        wanted = asker.csrf or self.login_token(request.cookies.get(self._cookies.login, ""))
        if not wanted or not secrets.compare_digest(sent.encode(), wanted.encode()):
            raise RefusedError(
                403, "this form is too old, or not ours: go back, load the page again, and repeat"
            )
