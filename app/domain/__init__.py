"""The rules, pure: no Faust, no I/O, no clock, no randomness, no environment."""
