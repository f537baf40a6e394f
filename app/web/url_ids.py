"""Ids in URLs, both ways. An id is any text of 1 to 256 bytes: spaces, slashes and markup included."""

from urllib.parse import quote, unquote_to_bytes

from app.errors import UsageError
from app.wire.input_records import MAX_ID_BYTES

JSON_SUFFIX = ".json"


def path_of(kind: str, identifier: str) -> str:
    """The path of the page of a card, terminal, transaction or alert.

    Args:
        kind: `card`, `terminal`, `transaction` or `alert`.
        identifier: its id.
    """
    quoted = quote(identifier, safe="")
    if kind == "alert":
        return f"/review/?alert={quoted}"
    if identifier in (".", ".."):  # browsers and proxies resolve these even when they are escaped
        return f"/{kind}s/?id={quoted}"
    return f"/{kind}s/{quoted}/"


def json_path_of(kind: str, identifier: str) -> str | None:
    """The path of the same as JSON; None for the two ids whose page has a query instead of a path."""
    path = path_of(kind, identifier)
    return None if "?" in path else path[:-1] + JSON_SUFFIX


def requested_id(kind: str, raw_path: str, raw_query: str) -> str:
    """The id that a request asks for: `/cards/ID/`, `/cards/ID`, `/cards/ID.json` or `/cards/?id=ID`.

    Args:
        kind: `card`, `terminal` or `transaction`.
        raw_path: the path as it came, still escaped.
        raw_query: the query as it came, without the question mark.

    Raises:
        UsageError: there is no id, or it can be none.
    """
    escaped = raw_path.removeprefix(f"/{kind}s").removeprefix("/")
    # an id may itself end in .json: then it is asked for with a slash behind it
    escaped = escaped[:-1] if escaped.endswith("/") else escaped.removesuffix(JSON_SUFFIX)
    if not escaped:
        escaped = _parameter(raw_query, "id")
    try:
        identifier = unquote_to_bytes(escaped).decode()
    except UnicodeError:
        msg = f"the {kind} id in the address is not UTF-8"
        raise UsageError(msg) from None
    if not identifier:
        msg = f"no {kind} id: request /{kind}s/ID/"
        raise UsageError(msg)
    if "\0" in identifier or len(identifier.encode()) > MAX_ID_BYTES:
        msg = f"a {kind} id has 1 to {MAX_ID_BYTES} bytes and no null characters"
        raise UsageError(msg)
    return identifier


def _parameter(raw_query: str, name: str) -> str:
    for pair in raw_query.split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return value.replace("+", " ")  # as forms write a space
    return ""
