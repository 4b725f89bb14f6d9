"""Fixtures for all tests, and uvloop where the library would use it."""

pytest_plugins = ["tests.servers"]
