"""Fixtures of the tests on real servers."""

from tests.secure import secured

__all__ = ["secured"]
