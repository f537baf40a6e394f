"""Open transactions: since when, and how much waits behind them."""

from app.blocks.faust.open_transactions import OpenTransactions, UnstableTail


def test_an_open_transaction_is_known_since_it_was_first_seen() -> None:
    opened = OpenTransactions()
    assert opened.look("a", 10, 10, 0.0) is None
    assert opened.look("a", 10, 15, 1.0) == UnstableTail(10, 5, 0.0)
    assert opened.look("a", 10, 20, 4.0) == UnstableTail(10, 10, 3.0)
    assert opened.look("b", None, None, 4.0) is None  # nothing was fetched yet
    assert opened.look("c", -1, 7, 4.0) is None  # uncommitted records are read, too


def test_the_next_one_has_a_time_of_its_own() -> None:
    opened = OpenTransactions()
    opened.look("a", 10, 15, 0.0)
    assert opened.look("a", 13, 20, 5.0) == UnstableTail(13, 7, 0.0)
    assert opened.look("a", 20, 20, 6.0) is None
    assert opened.look("a", 20, 21, 9.0) == UnstableTail(20, 1, 0.0)
