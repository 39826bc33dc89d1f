"""The fixtures of the integration tests, for tests that take longer."""

from __future__ import annotations

from tests.integration.conftest import names, own_stack, stack

__all__ = ["names", "own_stack", "stack"]
