"""`POST /score`: append one transaction to `transactions`, and answer with its prediction.

The log decides as always: the answer is the record that the sink reads from `predictions`. A caller that gets no
answer in time gets 504; its transaction is on the log and is scored exactly once. Asking again with the same
transaction_id gets the stored prediction.

| status | when                                                                                |
|--------|-------------------------------------------------------------------------------------|
| 200    | scored now, or, with `"repeated": true`, before                                      |
| 400    | no valid transaction; `reason` is the code that a dead-letter record would have      |
| 401    | the token is missing or wrong; without FRAUDSTREAM_SCORE_TOKEN, the Host is not loopback |
| 403    | the token came over a connection that others can read                                |
| 408    | the body did not arrive in time                                                      |
| 413    | the body is too long                                                                 |
| 415    | the content type is not application/json                                             |
| 421    | the Host is not a name of this worker                                                |
| 429    | FRAUDSTREAM_SCORE_WAITING callers wait already, or too many wrong tokens came from there |
| 503    | the card's partition is being handed out or recovered, or Kafka does not answer      |
| 504    | no prediction within FRAUDSTREAM_SCORE_TIMEOUT                                       |
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from app.address_syntax import is_loopback
from app.domain.transaction import DeadRecordError
from app.errors import BusyError, UnavailableError
from app.field_names import under_our_names
from app.metrics.trace_spans import TRACEPARENT, TRACESTATE, as_record_headers
from app.stages.score_callers import ScoreCallers
from app.web.access import audit
from app.web.access.checks import ACCESS
from app.web.access.request_bodies import MOST_BYTES, read_body
from app.web.forwarding import forward
from app.web.key_owner import OwnedElsewhere, OwnedHere
from app.web.replies import RETRY_AFTER_SECONDS, RefusedError, json_reply
from app.web.roles import NOBODY, Role
from app.web.routes import Route
from app.web.worker_protocol import Worker
from app.web.worker_requests import ROUTED_HEADER
from app.wire.decoding.record_rules import json_record_rules
from app.wire.input_records import parse_transaction

_PATH = "/score"
#: Refusals that leave an audit record. Not 429: whoever sends wrong tokens would fill the log.
_AUDITED = frozenset({401, 403, 421})
#: Of a record on `transactions`, besides its value.
_OVERHEAD_BYTES = 1_024
#: What a prediction says to a caller.
_FIELDS = (
    "transaction_id", "card_id", "score", "is_fraud", "threshold", "anomaly_score", "reasons", "flags",
    "model_version", "scored_at", "action", "rules",
)  # fmt: skip
#: A transaction that was repeated may be in flight still: how often its row is looked for.
_LOOK_SECONDS = 0.1


class Appended(NamedTuple):
    """A record for `transactions`."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class AppendingWorker(Worker, Protocol):
    """A worker that can append to `transactions`."""

    async def append(
        self, partition: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> tuple[int, int]:
        """The record's partition and offset, once it is durable.

        Raises:
            UnavailableError: Kafka does not accept it.
        """


class ScoreHandler:
    """The handler.

    Args:
        worker: who answers.
        answers: who waits there.
    """

    def __init__(self, worker: AppendingWorker, answers: ScoreCallers) -> None:
        self._worker = worker
        self._answers = answers
        self._rules = json_record_rules(worker.settings)
        token = worker.settings.score_token
        self._token = token.get_secret_value().encode() if token else None
        self._most_bytes = min(MOST_BYTES, worker.settings.max_message_bytes - _OVERHEAD_BYTES)
        #: Headers of a caller's span, where the deployment traces.
        self._traces = (TRACEPARENT, TRACESTATE) if worker.settings.trace_endpoint else ()

    @property
    def route(self) -> Route:
        """The page of this handler."""
        return Route("POST", _PATH, self.post, Role.PUBLIC, own_login=True)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """One request; every answer is JSON, whatever the client accepts."""
        try:
            response = await self._answer(request)
        except DeadRecordError as dead:
            response = json_reply({"error": str(dead), "reason": dead.reason}, 400)
        except RefusedError as refused:
            response = json_reply({"error": str(refused)}, refused.status)
            if refused.retry_after is not None:
                response.headers["Retry-After"] = str(refused.retry_after)
            if refused.status in _AUDITED:  # what is scored has its record on the log
                audit.record(request, NOBODY, self.route, refused.status)
        except UnavailableError as error:
            status = 429 if isinstance(error, BusyError) else 503
            response = json_reply({"error": str(error)}, status)
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        self._answers.statuses[response.status] += 1
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        await request.app[ACCESS].admit_program(request, self._token)
        if request.content_type != "application/json":
            raise RefusedError(415, "send Content-Type: application/json")
        body = await read_body(request, self._most_bytes)
        key = self._key_of(body)
        transaction = parse_transaction(body, key, int(time.time() * 1000), self._rules)
        if transaction.minor < 0:
            line = "a refund is not scored: send it to the topic `transactions`"
            return json_reply({"error": line, "reason": "refund"}, 400)
        place = self._worker.find("card", key)
        if isinstance(place, OwnedElsewhere):
            if ROUTED_HEADER in request.headers:
                msg = "this card is moving from one worker to another; try again"
                raise UnavailableError(msg)
            return await forward(
                request, self._worker, place.url, body, self._further(request, place.url)
            )
        if not isinstance(place, OwnedHere):
            raise UnavailableError(place.reason)
        given = {name: request.headers[name] for name in self._traces if name in request.headers}
        record = Appended(place.partition, key, body, as_record_headers(given))
        try:
            async with asyncio.timeout(self._worker.settings.score_timeout / 1000):
                return json_reply(await self._score(record, transaction.transaction_id))
        except TimeoutError:
            line = "no prediction in time; the transaction is on the log: send it again with the same id"
            raise RefusedError(504, line) from None

    async def _score(self, record: Appended, transaction_id: str) -> Mapping[str, Any]:
        key = record.key
        with self._answers.expect(key) as waiting:
            waiting.sent(await self._worker.append(*record))
            fields = await waiting.outcome
        if fields is not None:
            return _shown(fields)
        while True:  # the first one's row may be on its way
            found = await self._worker.transaction(transaction_id)
            for row in (found, *found["others"]) if found is not None else ():
                if row["card_id"].encode() == key:
                    return {**_shown(row), "repeated": True}
            await asyncio.sleep(_LOOK_SECONDS)

    def _key_of(self, body: bytes) -> bytes:
        """The card, as the Kafka key has it; empty where the checks will refuse the body anyway."""
        try:
            fields = orjson.loads(body)
        except ValueError:
            return b""
        if not isinstance(fields, dict):
            return b""
        if self._rules.names:
            fields = under_our_names(fields, self._rules.names) or fields
        return str(fields.get("card_id")).encode()

    def _further(self, request: web.Request, url: str) -> tuple[str, ...]:
        """Headers that another worker needs, too.

        The group's metadata says where it answers, and whoever joins the group writes that: our token goes to no other
        machine. A worker of this deployment proves itself by FRAUDSTREAM_WEB_SECRET.
        """
        if request.app[ACCESS].peers is not None:
            return ("Content-Type", *self._traces)
        if self._token and not is_loopback(urlsplit(url).hostname or ""):
            msg = f"the worker at {url} owns this card: workers can query each other only with FRAUDSTREAM_WEB_SECRET"
            raise UnavailableError(msg)
        return ("Authorization", "Content-Type", *self._traces)


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields.get(name) for name in _FIELDS}
