"""The one seed of every test that draws: schedules, simulated payments, kill points."""

import os

#: Set FRAUDSTREAM_TEST_SEED to draw others; a run prints the one it used.
SEED = int(os.environ.get("FRAUDSTREAM_TEST_SEED", "1"))
