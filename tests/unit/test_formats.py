"""Numbers and foreign text as people read them."""

import pytest

from app import display


@pytest.mark.parametrize(
    ("minor", "digits", "text"),
    [
        (123_456, 2, "1,234.56"),
        (5, 2, "0.05"),
        (0, 2, "0.00"),
        (1_234, 0, "1,234"),
        (1_234, 3, "1.234"),
        (None, 2, "–"),
    ],
)
def test_amounts(minor: int | None, digits: int, text: str) -> None:
    assert display.amount(minor, digits) == text


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (None, "–"),
        (4.3, "4 ms"),
        (999.4, "999 ms"),
        (1_500.0, "1.5 s"),
        (90_000.0, "1.5 min"),
        (7_200_000.0, "2.0 h"),
    ],
)
def test_latencies(duration_ms: float | None, text: str) -> None:
    assert display.milliseconds(duration_ms) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert display.size(count) == text


@pytest.mark.parametrize(
    ("feature", "text"),
    [(None, "–"), (3.0, "3"), (0.25, "0.25"), (1234.5678, "1,234.57"), (float("inf"), "inf")],
)
def test_features(feature: float | None, text: str) -> None:
    assert display.value(feature) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (65, "1 min 5 s"), (98_765, "1 d 3 h"), (-3, "0 s")]
)
def test_ages(seconds: int, text: str) -> None:
    assert display.age(100, 100 + seconds) == text


def test_foreign_text_cannot_steer_a_terminal() -> None:
    assert display.printable("a\x1b[31m\nü\u202e€") == "a\\x1b[31m\\nü\\u202e€"
    assert display.iso(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
