"""Fixtures that more than one conformance suite shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtmem.store import ENGINES
from tests.conformance.store_places import Place, place_of


@pytest.fixture(params=sorted(ENGINES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a store may lie, once per engine; closed at the end."""
    found = place_of(request.param, tmp_path)
    yield found
    if found.store is not None:
        found.store.close()
