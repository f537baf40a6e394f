"""`/transactions/ID/`: a scored transaction, and how its features moved the score."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from app.display import in_order
from app.domain.decision import decision_of
from app.domain.features import Catalogue
from app.errors import NotFoundError
from app.web.replies import json_reply, page, wants_json
from app.web.roles import Role
from app.web.routes import Route
from app.web.url_ids import requested_id
from app.web.worker_protocol import WORKER
from app.wire.prediction_fields import SHADOW_FLAGGED, SHADOW_SCORES


async def transaction(request: web.Request) -> web.Response:
    """`/transactions/ID/`: a scored transaction, from Cassandra."""
    worker = request.app[WORKER]
    identifier = requested_id(
        "transaction", request.rel_url.raw_path, request.rel_url.raw_query_string
    )
    found = await worker.transaction(identifier)
    if found is None:
        msg = f"no transaction {identifier!r} has been scored and stored"
        raise NotFoundError(msg)
    if wants_json(request):
        return json_reply(found)
    settings = worker.settings
    return page(
        "transaction.html",
        id=identifier,
        rows=[
            {
                **row,
                "decision": decision_of(row),
                "challengers": challengers_of(row),
                "explained": explained(row["features"], worker.catalogue, worker.pushes(row)),
                "further": further_fields(row),
            }
            for row in (found, *found["others"])
        ],
        digits=settings.minor_unit_digits,
        currency=settings.currency,
        said=request.query.get("said", ""),
    )


def explained(
    features: Mapping[str, float | None],
    catalogue: Catalogue,
    pushes: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """Stored features with what the catalogue says of them; of an older catalogue's, the name alone.

    Args:
        features: by name.
        catalogue: the deployment's.
        pushes: by name: baseline, and how far the value moved the score; empty: unknown.

    Returns:
        What moved the score most first, otherwise in the catalogue's order; `bar`: -100 to 100, a share of the
        strongest, None: unknown.
    """
    known = {feature.name: feature for feature in catalogue.columns}
    most = max((abs(push) for _, push in pushes.values()), default=0.0) or 1.0
    names = sorted(
        in_order(features, catalogue.names),
        key=lambda item: -abs(pushes[item[0]][1]) if item[0] in pushes else 0.0,
    )
    return [
        {
            "name": name,
            "value": value,
            "baseline": pushes[name][0] if name in pushes else None,
            "bar": round(100 * pushes[name][1] / most, 1) if name in pushes else None,
            "unit": known[name].unit if name in known else "",
            "formula": known[name].formula if name in known else "",
        }
        for name, value in names
    ]


def challengers_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What challengers said of a stored prediction, by name; empty: there were none."""
    flagged = row.get(SHADOW_FLAGGED) or ()
    scores = row.get(SHADOW_SCORES) or {}
    return [
        {"model": name, "score": score, "flagged": name in flagged}
        for name, score in sorted(scores.items())
    ]


def further_fields(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the input said beyond our fields, as text."""
    return [
        (name, value if isinstance(value, str) else orjson.dumps(value).decode())
        for name, value in (row.get("extra") or {}).items()
    ]


PAGES = tuple(
    Route("GET", f"/transactions{rest}", transaction, Role.ANALYST)
    for rest in ("", r"/{id:[\s\S]*}")  # an id may hold a newline
)
