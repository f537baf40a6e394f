"""The parts of `fraudstream replay`; `app/ops/replay.py` puts them together."""
