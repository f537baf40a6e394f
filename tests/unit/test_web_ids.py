"""Ids in URLs come back as they went, whatever they are made of."""

import pytest
from hypothesis import example, given

from app.errors import UsageError
from app.web.url_ids import json_path_of, path_of, requested_id
from tests.web_worker import IDS


def asked(kind: str, address: str) -> str:
    path, _, query = address.partition("?")
    return requested_id(kind, path, query)


@given(IDS)
@example("a b")
@example("a/b")
@example("/")
@example("//")
@example(".")
@example("..")
@example("x.json")
@example(".json")
@example("%2F")
@example("%")
@example("+")
@example("q?x=1&y=2#z")
@example("new\nline")
@example("\u202eevil")
@example("ü€😀")
@example("<script>alert(1)</script>")
def test_an_id_survives_its_own_address(identifier: str) -> None:
    path = path_of("card", identifier)
    assert path.isascii()
    assert " " not in path
    assert asked("card", path) == identifier
    json_path = json_path_of("card", identifier)
    if json_path is not None:
        assert asked("card", json_path) == identifier


@pytest.mark.parametrize(
    ("address", "identifier"),
    [
        ("/cards/c1/", "c1"),
        ("/cards/c1", "c1"),
        ("/cards/c1.json", "c1"),
        ("/cards/c1.json/", "c1.json"),
        ("/cards/c1.json.json", "c1.json"),
        ("/cards/a/b/", "a/b"),
        ("/cards/?id=c1", "c1"),
        ("/cards/?x=1&id=a+b%2Bc", "a b+c"),
        ("/cards?id=c1", "c1"),
        ("/cards/%63%31", "c1"),
        ("/cards/ü/", "ü"),
    ],
)
def test_addresses(address: str, identifier: str) -> None:
    assert asked("card", address) == identifier


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/cards/", "no card id: request /cards/ID/"),
        ("/cards//", "no card id: request /cards/ID/"),
        ("/cards/?id=", "no card id: request /cards/ID/"),
        ("/cards/%FF/", "the card id in the address is not UTF-8"),
        ("/cards/\udcff/", "the card id in the address is not UTF-8"),
        ("/cards/a%00b/", "a card id has 1 to 256 bytes and no null characters"),
        ("/cards/" + "x" * 257, "a card id has 1 to 256 bytes and no null characters"),
        ("/cards/" + "ü" * 129, "a card id has 1 to 256 bytes and no null characters"),
    ],
)
def test_what_can_be_no_id(address: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked("card", address)
    assert str(caught.value) == line


def test_dots_do_not_stand_in_a_path() -> None:
    # browsers resolve /cards/%2E%2E/ to / before they ask
    assert path_of("card", "..") == "/cards/?id=.."
    assert json_path_of("card", "..") is None
    assert path_of("card", "...") == "/cards/.../"
