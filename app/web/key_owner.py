"""Which worker answers for a card or terminal: the one that owns its partition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.windows.window_row import LoadRow


@dataclass(frozen=True)
class OwnedHere:
    """This worker owns the key's partition.

    Attributes:
        partition: its number.
        load: gives the stored bytes of a row key, None when there is none.
    """

    partition: int
    load: LoadRow


@dataclass(frozen=True)
class OwnedElsewhere:
    """Another worker owns it.

    Attributes:
        url: where that worker answers.
    """

    url: str


@dataclass(frozen=True)
class Unowned:
    """It cannot be read now.

    Attributes:
        reason: one line for people.
    """

    reason: str


Place = OwnedHere | OwnedElsewhere | Unowned


def key_owner(
    partition: int, own_url: str, owners: Mapping[str, Sequence[int]], *, active: bool, ready: bool
) -> str | Unowned | None:
    """Who answers for a partition: another worker's URL, nobody, or None for this worker.

    Args:
        partition: the key's partition.
        own_url: URL of this worker.
        owners: partitions by URL, as the group's leader assigned them.
        active: whether this worker was assigned the partition.
        ready: whether its table is recovered.
    """
    if active:
        return None if ready else Unowned(f"partition {partition} is being recovered; try again")
    for url, partitions in owners.items():
        if partition in partitions:
            if url.rstrip("/") == own_url.rstrip("/"):
                return Unowned(
                    f"several workers have the address {own_url}: give each its own "
                    "FRAUDSTREAM_ADVERTISED_HOST or FRAUDSTREAM_WEB_PORT"
                )
            return url.rstrip("/")
    return Unowned(f"no worker owns partition {partition} yet; try again")
