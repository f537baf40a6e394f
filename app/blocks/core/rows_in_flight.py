"""The rows of a partition as its blocks in flight have left them: the overlay, and the store below it."""

from collections.abc import Iterable, Iterator, Mapping

from app.blocks.core.interfaces import Ports


class NewestRows:
    """See `app.blocks.core.interfaces.RowScanner`.

    Attributes:
        number: of the partition.
        closed: it is revoked; a store that is read afterwards would be opened again.
    """

    number: int
    closed: bool
    _ports: Ports
    _overlay: dict[bytes, tuple[int, bytes | None]]

    def get(self, key: bytes) -> bytes | None:
        """The newest bytes of a row: of a block in flight, else the stored ones."""
        newest = self._overlay.get(key)
        return self._ports.load(self.number, key) if newest is None else newest[1]

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The newest rows whose keys start with a prefix: as `get` gives them."""
        return newest(self._ports.scan(self.number, prefix), self._overlay, prefix)

    def pages(self, prefix: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """The same in parts; ends early when the partition is revoked."""
        # first: they may be stored meanwhile, behind what has been read
        yield newest((), self._overlay, prefix)
        start = prefix
        while not self.closed:
            page = self._ports.page(self.number, prefix, start)
            if not page:
                return
            yield page
            start = page[-1][0] + b"\0"


def newest(
    stored: Iterable[tuple[bytes, bytes]],
    overlay: Mapping[bytes, tuple[int, bytes | None]],
    prefix: bytes,
) -> list[tuple[bytes, bytes]]:
    """Rows whose keys start with a prefix, as blocks in flight have left them.

    Args:
        stored: the stored ones.
        overlay: number of the block, and bytes, of rows that are not stored yet.
        prefix: of their keys.
    """
    found: dict[bytes, bytes | None] = dict(stored)
    found |= {key: raw for key, (_, raw) in overlay.items() if key.startswith(prefix)}
    return [(key, raw) for key, raw in found.items() if raw is not None]
