"""Fixtures of every test directory."""

from tests.stack import settings, stack

__all__ = ["settings", "stack"]
