"""The parts of `fraudstream verify`; `app/ops/verify.py` puts them together."""
