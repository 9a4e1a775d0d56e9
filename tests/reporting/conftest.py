"""Fixtures of the tests that ask questions in SQL."""

from tests.reporting.questions import storage

__all__ = ["storage"]
