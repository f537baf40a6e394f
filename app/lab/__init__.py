"""The laboratory: simulation, demo, benchmarks, the Handbook's data. No worker imports any of it."""
