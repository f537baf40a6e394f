"""What is asked of a row, and how rows are cut into batches."""

import pytest

from app.blocks.core.row_groups import RECORD_OVERHEAD_BYTES, chunk_groups
from app.blocks.core.row_precedence import row_offset, supersedes
from app.errors import StateError


def row(offset: int, body: bytes = b"") -> bytes:
    return offset.to_bytes(8, "big", signed=True) + body


@pytest.mark.parametrize("offset", [-1, 0, 1, 255, 1 << 40])
def test_a_row_starts_with_its_offset(offset: int) -> None:
    assert row_offset(row(offset, b"anything")) == offset


@pytest.mark.parametrize(
    ("candidate", "current", "wins"),
    [
        (row(1), None, True),
        (row(2), row(1), True),
        (row(1), row(2), False),
        (row(1, b"a"), row(1, b"a"), True),
        (row(1, b"b"), row(1, b"a"), False),
        (row(256), row(255), True),
        (row(0), row(-1), True),
    ],
)
def test_the_highest_offset_wins_and_the_first_of_equals(
    candidate: bytes, current: bytes | None, wins: bool
) -> None:
    assert supersedes(candidate, current) is wins


class TestChunks:
    def groups(self, *sizes: int) -> list[list[tuple[bytes, bytes | None]]]:
        """Groups of one row each, which take so many bytes in a batch."""
        return [
            [(b"%05d" % number, bytes(size - 5 - RECORD_OVERHEAD_BYTES))]
            for number, size in enumerate(sizes)
        ]

    def test_nothing_makes_nothing(self) -> None:
        assert chunk_groups([], 100) == []

    def test_a_chunk_is_filled_to_the_byte(self) -> None:
        assert [len(c) for c in chunk_groups(self.groups(200, 200, 200), 400)] == [2, 1]
        assert [len(c) for c in chunk_groups(self.groups(200, 200, 200), 399)] == [1, 1, 1]
        assert [len(c) for c in chunk_groups(self.groups(200, 200, 200), 600)] == [3]

    def test_order_is_kept(self) -> None:
        groups = self.groups(*range(120, 220))
        chunks = chunk_groups(groups, 500)
        assert [r for chunk in chunks for r in chunk] == [r for group in groups for r in group]

    def test_a_group_is_never_divided(self) -> None:
        pair: list[tuple[bytes, bytes | None]] = [(b"a", b"x" * 50), (b"b", None)]
        chunks = chunk_groups([pair, pair, pair], 400)
        assert [len(chunk) for chunk in chunks] == [2, 2, 2]

    def test_a_group_that_fits_no_batch_is_refused(self) -> None:
        assert chunk_groups(self.groups(400), 400)
        with pytest.raises(StateError, match="need 401 bytes, a batch holds 400"):
            chunk_groups(self.groups(401), 400)
