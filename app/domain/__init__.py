"""Domain code: pure functions and values without Faust, I/O, clock, randomness or environment."""
