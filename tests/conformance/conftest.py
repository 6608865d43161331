"""Fixtures that more than one conformance suite shares."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtmem.store import ENGINES
from tests.conformance.executor_sites import SITES, Body, On
from tests.conformance.store_places import Place, place_of


@pytest.fixture(params=sorted(ENGINES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a store may lie, once per engine; closed at the end."""
    found = place_of(request.param, tmp_path)
    yield found
    if found.store is not None:
        found.store.close()


@pytest.fixture(params=sorted(SITES))
def on(request: pytest.FixtureRequest, tmp_path: Path) -> On:
    """Run a body on one site."""

    async def run(body: Body) -> None:
        site = SITES[request.param](tmp_path)
        await site.open()
        async with asyncio.timeout(30):
            await body(site)
        await site.close()

    return lambda body: asyncio.run(run(body))
