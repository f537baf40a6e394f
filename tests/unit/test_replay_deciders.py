"""What decides in a replay."""

from types import SimpleNamespace
from typing import Any

from app.domain.changes import ModelChange
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.ops.replaying.deciders import Deciders

START = ModelChange(
    model="one@1", hash="a" * 64, threshold=0.4, how="start", by="FRAUDSTREAM_MODEL"
)
PROMOTED = ModelChange(model="two@1", hash="b" * 64, threshold=None, how="promote", by="somebody")


def test_the_first_model_decides_before_its_own_change_arrives() -> None:
    """A worker that starts on a backlog scores some of it before the first change is on `enriched`."""
    plan: Any = SimpleNamespace(own=SimpleNamespace(threshold=None), by=())
    deciders = Deciders(plan, holder=SimpleNamespace(by_hash=None), model=None)  # type: ignore[arg-type]
    deciders._history = ChangeHistory(
        [LoggedChange(0, 0, 1_000, START), LoggedChange(0, 1, 2_000, PROMOTED)]
    )
    arrives = {10: (0, 0), 20: (0, 1)}  # offset on `enriched`: place on `control`

    def first_change(_partition: int, offset: int) -> tuple[int, int] | None:
        return next((place for at, place in arrives.items() if at >= offset), None)

    deciders._survey = SimpleNamespace(first_change=first_change)  # type: ignore[assignment]
    found = {offset: deciders.at(0, offset).begins for offset in (0, 15, 25)}
    assert [(one.model, one.threshold) for one in found.values()] == [
        (START.hash, 0.4), (START.hash, 0.4), (PROMOTED.hash, None),
    ]  # fmt: skip
    assert found[0].first == 0  # no row of an older release is asked for the model
