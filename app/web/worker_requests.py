"""Requests between workers: who asks is signed, and so is what is answered.

A worker asks only those to which the group has handed partitions. Whoever joins the group says under which address it
answers, so an answer counts only with the signature of one that knows the deployment's secret.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from app.errors import UnavailableError
from app.web.access.signed_values import Signer
from app.web.roles import Role, Viewer

#: Set on a request that another worker sent on: it is not sent on again, or stale assignments would make
#: two workers send it to and fro.
ROUTED_HEADER = "X-Fraudstream-Routed"
#: Who asks, signed by the worker that they asked; and the signature of the answer.
PEER_HEADER, PROOF_HEADER = "X-Fraudstream-Peer", "X-Fraudstream-Proof"
#: How long a signed request may be on its way; clocks of workers may differ by as much.
SECONDS = 30
#: A worker that is asked for one key answers in milliseconds; one that hangs is as good as none.
_ANSWER_SECONDS = 5.0
#: A page of a card with all that it shows has some hundred kilobytes.
_MOST_ANSWER_BYTES = 4 << 20
_PARTS = 5


class PeerAnswer(NamedTuple):
    """Another worker's answer."""

    status: int
    content_type: str
    body: bytes
    proof: str = ""


class Vouched(NamedTuple):
    """What another worker's signature says of a request.

    Attributes:
        asker: who asked that worker.
        digest: of the body that it sent.
    """

    asker: Viewer
    digest: str

    def sent(self, body: bytes) -> bool:
        """Whether this is the body that it sent."""
        return hmac.compare_digest(_digest(body), self.digest)


def ask(
    signer: Signer, asker: Viewer, target: str, method: str, path: str, body: bytes, now: float
) -> str:
    """The header that says who asks another worker.

    Args:
        signer: of the deployment's workers.
        asker: who asked this one.
        target: URL of that worker: the header is worth nothing at any other.
        method: of the request.
        path: with its query.
        body: of the request; empty without one.
        now: epoch seconds.
    """
    parts = (asker.name.encode().hex(), asker.role.title, str(int(now)), _digest(body))
    return ":".join((*parts, signer.sign("ask", *parts, target, method, path)))


def asker_of(
    signer: Signer, header: str, own: str, method: str, path: str, now: float
) -> Vouched | None:
    """Who asks, if another worker of this deployment says so, and just now.

    The body may not have been read yet: a stranger's is not worth that. `Vouched.sent` checks it.
    """
    *parts, signature = header.split(":")
    if len(parts) != _PARTS - 1 or not signer.fits(signature, "ask", *parts, own, method, path):
        return None
    name, role, at, digest = parts
    if abs(now - int(at)) > SECONDS:
        return None
    return Vouched(Viewer(bytes.fromhex(name).decode(), Role[role.upper()]), digest)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def prove(signer: Signer, header: str, status: int, content_type: str, body: bytes) -> str:
    """The signature of an answer to a request with this header."""
    digest = hashlib.sha256(body).digest()
    return signer.sign("answer", header, str(status), content_type, digest)


def checked(signer: Signer, header: str, answer: PeerAnswer, target: str) -> PeerAnswer:
    """An answer that is from a worker of this deployment.

    Raises:
        UnavailableError: it is not.
    """
    wanted = (header, str(answer.status), answer.content_type, hashlib.sha256(answer.body).digest())
    if not signer.fits(answer.proof, "answer", *wanted):
        msg = (
            f"the process at {target} does not know this deployment's FRAUDSTREAM_WEB_SECRET: give all workers "
            "the same secret, and check which other members the consumer group has"
        )
        raise UnavailableError(msg)
    return answer


def origin_of(url: str) -> str:
    """The address of another worker as the group's metadata has it, if it is nothing but an address.

    Raises:
        UnavailableError: it is something else: a path, a user, another scheme.
    """
    try:
        found = URL(url, encoded=True)
        origin = found.origin()
        plain = found.scheme in ("http", "https") and found == origin and found.user is None
    except ValueError:
        plain = False
    if not plain:
        msg = f"a member of the consumer group advertises {url!r}, which is not the address of a worker"
        raise UnavailableError(msg)
    return str(origin)


async def request_worker(
    client: Any,
    url: str,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    score_timeout_ms: int,
) -> PeerAnswer:
    """Another worker's answer, as far as it is one: no more bytes than a page has.

    Args:
        client: aiohttp's, of this worker.
        url: where to.
        method: as HTTP has it.
        headers: of the request.
        body: of the request.
        score_timeout_ms: how long another worker may wait for a prediction.

    Raises:
        UnavailableError: it does not answer, or with too much.
    """
    target = URL(url, encoded=True)
    seconds = max(_ANSWER_SECONDS, score_timeout_ms / 1000 + 1)
    try:
        async with client.request(
            method,
            target,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as response:
            said = b""
            async for chunk in response.content.iter_chunked(1 << 16):
                said += chunk
                if len(said) > _MOST_ANSWER_BYTES:
                    msg = f"the worker at {target.origin()} answers more than {_MOST_ANSWER_BYTES} bytes"
                    raise UnavailableError(msg)
            content_type = response.headers.get("Content-Type", "application/octet-stream")
            proof = response.headers.get(PROOF_HEADER, "")
            return PeerAnswer(response.status, content_type, said, proof)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        msg = f"the worker at {target.origin()} owns it and does not answer; try again"
        raise UnavailableError(msg) from error
