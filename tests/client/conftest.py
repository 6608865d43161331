"""What the tests of the client have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["unix", "websocket"])
def carrier(request: pytest.FixtureRequest) -> str:
    """Each way to a node in turn."""
    return str(request.param)
