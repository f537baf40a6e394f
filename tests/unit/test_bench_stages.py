"""The account of stages is complete, comes from the real handlers, and needs no server."""

import json
import subprocess
import sys
from pathlib import Path

from app.lab.bench.stages import Stage, measure_stages, stages_text
from app.settings import Settings

_STAGES = ["cards", "scoring", "output batches", "changelog rows", "store", "sink packing"]
_PARTS = {
    "cards": ["decode", "card features", "card row encode"],
    "scoring": ["decode enriched", "terminal features", "model", "reasons", "prediction encode"],
}


def test_every_stage_is_timed() -> None:
    found = measure_stages(Settings(_env_file=None), events=1_500, repeats=2, seed=3)  # type: ignore[call-arg]
    assert [stage.name for stage in found if stage.part_of is None] == _STAGES
    for whole, parts in _PARTS.items():
        assert [stage.name for stage in found if stage.part_of == whole] == parts
    for stage in found:
        assert 0 <= stage.spread[0] <= stage.us <= stage.spread[1]
        assert stage.us > 0 or stage.name == "reasons", stage


def test_the_text_adds_up_stages_without_their_parts() -> None:
    text = stages_text(
        [
            Stage("cards", None, 20.0, (19, 21)),
            Stage("decode", "cards", 5.0, (4, 6)),
            Stage("store", None, 2.5, (2, 3)),
        ]
    )
    assert "  decode" in text
    assert "22.50" in text.splitlines()[-1]


def test_the_command_needs_no_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "bench", "--stages", "--quick", "--events", "1000", "--json"],
        env={"FRAUDSTREAM_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in json.loads(done.stdout)} >= set(_STAGES)
