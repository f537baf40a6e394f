"""A slow model scores few transactions in one go, and everything else is as if it had scored them together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.blocks.core.partition import Computed
from app.domain.changes import ModelChange
from app.stages.scoring_pace import ScoringPace
from tests.builders import tx_bytes
from tests.fakes import Counter, Effects, block, count_of, until
from tests.unit.test_blocks_partition import started
from tests.unit.test_challengers import Make, models
from tests.verify_world import VerifyWorld

__all__ = ["models", "started"]  # fixtures


def test_what_a_model_may_score_at_once_follows_from_its_speed() -> None:
    assert ScoringPace().room("a") == float("inf")
    pace = ScoringPace(0.1)
    assert pace.room("a") == 20
    pace.took("a", 500, 0.0025)
    assert pace.room("a") == pytest.approx(20_000)
    assert pace.room("b") == 20  # another model was that quick
    pace.took("b", 20, 0.4)
    assert pace.room("b") == 5
    pace.took("b", 1, 3.0)
    assert pace.room("b") == 1
    pace.took("b", 1, 0.0)
    assert pace.room("b") > 1e6


class Hesitant(Counter):
    """Takes two records at a time."""

    def compute(self, partition: int, records: Any, state: Any, until_ms: float = 0) -> Computed:
        computed = super().compute(partition, records[:2], state)
        computed.taken = 2 if len(records) > 2 else None
        return computed


async def test_the_rest_of_a_block_is_a_block_of_its_own(started: Any) -> None:  # noqa: F811
    ports, handler = Effects(), Hesitant()
    partition, _ = started(ports, handler, joined_records=10)
    partition.offer(block(0, 4))
    partition.offer(block(5, 6))
    await until(lambda: partition.done_offset == 7)
    assert ports.of("finish") == [(0, 1), (2, 3), (4, 5), (6, 6)]
    assert count_of(ports.stored[b"n"]) == 7
    assert ports.of("obtain") == []


def test_predictions_and_state_do_not_depend_on_it(tmp_path: Path, models: Make) -> None:  # noqa: F811
    """A model is promoted in between, of which the speed is not known."""

    def predicted(home: Path, pace: ScoringPace | None) -> tuple[list[dict[str, Any]], Any]:
        world = VerifyWorld(home=home)
        other = models(world, "other")
        world.restart()
        handler: Any = world._handlers[world.topics.enriched.name]
        taken: list[int] = []
        if pace is not None:
            handler.champion.pace = pace
            compute = handler.compute

            def in_parts(partition: int, records: Sequence[Any], state: Any) -> Computed:
                whole = Computed({})
                while records:
                    computed = compute(partition, records, state)
                    taken.append(len(records) if computed.taken is None else computed.taken)
                    state.write_groups(computed.groups)
                    for place, outputs in computed.outputs.items():
                        whole.outputs.setdefault(place, []).extend(outputs)
                    records = records[taken[-1] :]
                return whole

            handler.compute = in_parts
        start = world._champion.manifest.scoring_hash
        world.control(ModelChange(model="default@1", hash=start, how="start"))
        for number in range(60):
            card = f"c{number % 20}"
            world.send(tx_bytes(number, card=card, at=number * 1000, amount=number % 29), card.encode())  # fmt: skip
            if number == 30:
                world.control(ModelChange(model="other@1", hash=other))
        world.run()
        assert pace is None or max(taken) <= 20
        found = [orjson.loads(r.value or b"") for r in world.log(world.topics.predictions)]
        assert world.verify().passed
        return [{**one, "scored_at": 0} for one in found], {
            where: dict(state.rows) for where, state in world.states.items()
        }

    slow = ScoringPace(0.1)
    slow.took = lambda *_: None  # type: ignore[method-assign]
    at_once, in_parts = predicted(tmp_path / "a", None), predicted(tmp_path / "b", slow)
    assert at_once == in_parts
