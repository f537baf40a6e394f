"""How good decisions and rules are, as labels arrive: stored predictions compared with stored labels."""
