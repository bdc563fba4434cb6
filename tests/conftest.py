"""Fixtures that every suite may use."""

pytest_plugins = ["tests.support.postgres"]
