"""How much memory blocks may take, in bytes, over all partitions of a pipeline."""

#: Records in flight count so many times: they are there, and their outputs are about as large.
IN_FLIGHT_WEIGHT = 2


class MemoryBudget:
    """Bytes of records that are here and not acknowledged.

    It is no hard bound: a partition of which nothing is here may always be fetched, and one of which nothing is in
    flight may always compute, so that none stands still because of what others have.

    Args:
        limit: bytes; None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0

    def add(self, size: int) -> None:
        """So much came, or, where it is negative, went."""
        self.used += size

    @property
    def exceeded(self) -> bool:
        """Whether no more should come."""
        return self.limit is not None and self.used >= self.limit
