"""`fraudstream handbook` on simulated transactions in the Handbook's columns: a live pass, compared and verified."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.lab.simulation.simulate import SimulationConfig, simulate
from app.settings import ENV_PREFIX, NOT_SETTINGS

pytestmark = pytest.mark.integration

BEGIN_MS = int(np.datetime64("2018-06-01", "ms").astype(np.int64))


def write(path: Path) -> int:
    """Five weeks of a few cards; returns how many transactions."""
    drawn = simulate(SimulationConfig(cards=150, terminals=60, days=35, start_ms=BEGIN_MS, seed=7))
    fraud = drawn.is_fraud.astype(int).tolist()
    lines = ["TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD"]
    for (name, card, terminal, minor, when), label in zip(drawn.rows(), fraud, strict=True):
        moment = when.removesuffix("Z").replace("T", " ")
        lines.append(f"{name},{moment},{card},{terminal},{minor / 100!r},{label}")
    path.write_text("\n".join([*lines, ""]))
    return len(drawn)


def test_what_is_stored_is_what_training_computes(tmp_path: Path) -> None:
    path = tmp_path / "transactions.csv"
    count = write(path)
    # it has servers of its own, and looks at nobody's
    environ = {k: v for k, v in os.environ.items() if k in NOT_SETTINGS or ENV_PREFIX not in k}
    done = subprocess.run(
        [sys.executable, "-m", "app", "handbook", str(path), "--from", "2018-06-01", "--to", "2018-07-06",
         "--weeks", "1", "--parameter", "forest__n_estimators=10", "--parameter", "histgb__max_iter=20",
         "--no-naive", "--verify", "--json"],
        env=environ | {"TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["period"] == ["2018-06-01", "2018-07-05"]
    assert found["live"]["events"] == found["live"]["labels"] == count
    assert found["live"]["events_per_second"] > 0
    assert found["differing"] == 0
    counts = found["verified"]
    assert counts["read"] == counts["scored"] == count
    assert [counts[name] for name in ("pending", "missing", "differing")] == [0, 0, 0]
    assert 0.5 < found["lines"]["champion"]["auc"] <= 1
    assert found["missed"] == []
    assert list(tmp_path.glob("fraudstream-handbook-*")) == []
