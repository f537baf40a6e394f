"""Which stores of a partition a rebuild is compared with: those that have come furthest, all of them."""

from pathlib import Path

import pytest

from app.ops.rebuild import furthest_stores
from app.ops.state_comparison import OFFSET_KEY
from app.ops.temporary_stores import open_store


def store(folder: Path, offset: int | None, *, card: bytes) -> Path:
    """A store of partition 1 of the cards, as a worker has it."""
    path = folder / "v1" / "tables" / "cards-1.db"
    path.parent.mkdir(parents=True)
    with open_store(path) as database:
        database[b"h" + card] = b"row"
        if offset is not None:
            database[OFFSET_KEY] = str(offset).encode()
    return path


@pytest.mark.parametrize(
    ("offsets", "furthest"),
    [
        ((), set()),
        ((9,), {0}),
        ((9, 40, 9), {1}),
        ((40, 9, 40), {0, 2}),  # a worker that lost an idle partition is as far as its successor
        ((100, 99), {0}),  # as numbers, not as text
        ((None, 0), {1}),
        ((None, None), {0, 1}),
    ],
)
def test_every_store_that_has_come_furthest_is_compared(
    offsets: tuple[int | None, ...], furthest: set[int], tmp_path: Path
) -> None:
    names = [f"c{n}".encode() for n in range(len(offsets))]
    paths = [
        store(tmp_path / f"worker-{n}", offset, card=names[n]) for n, offset in enumerate(offsets)
    ]
    # the folder of one worker is named beside the one that it is in
    found = furthest_stores([tmp_path, tmp_path / "worker-0"], "cards", 1)
    assert [each.path for each in found] == [paths[n] for n in sorted(furthest)]
    assert all(b"h" + names[paths.index(each.path)] in each.rows for each in found)
    assert not furthest_stores([tmp_path], "terminals", 1)
