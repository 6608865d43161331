"""Each page of the conflicts cost as much as all of them, and was as large as it came.

Every conflict was gathered, with its siblings, for a page of a few; and a page was bounded in
number only, so that a thousand conflicts of a megabyte each were one answer of gigabytes. So
was the list over a socket: in parts, but all at hand before the first.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crdtmem import read_side
from crdtmem.causality import Observed
from crdtmem.memory import Memory
from crdtmem.parts import PART_BYTES
from crdtmem.reading import describe
from crdtmem.session import MemoryFace
from crdtmem.wall import now_us
from tests.server.serving import Served, run


async def _contest(memory: MemoryFace, keys: list[str], value: Any) -> None:
    """Write two concurrent values under each key."""
    for _ in range(2):
        async with memory.transaction() as opened:
            for key in keys:
                opened.space("team").register(key).set(value, observed=Observed())


async def _pages(served: Served, limit: int, path: str = "/v1/conflicts") -> list[Any]:
    """Read all pages; each is bounded in number and in bytes."""
    pages, cursor = [], ""
    while True:
        answer = await served.ask("GET", f"{path}?limit={limit}{cursor}")
        assert answer.status == 200, answer
        pages.append(answer.value["conflicts"])
        assert int(answer.headers["content-length"]) < 2.5 * PART_BYTES
        assert len(pages[-1]) <= limit
        if answer.value["cursor"] is None:
            return pages
        assert pages[-1], "a page that leads on holds something"
        cursor = f"&cursor={answer.value['cursor']}"


def test_a_page_costs_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = []

    def count(entry: Any) -> Any:
        described.append(entry)
        return describe(entry)

    async def scene(served: Served) -> None:
        keys = [f"key-{number:03}" for number in range(300)]
        await _contest(served.node.memory, keys, "Rome")
        monkeypatch.setattr(read_side, "describe", count)
        pages = await _pages(served, 20)
        assert [len(page) for page in pages] == [20] * 15
        assert [one["key"] for page in pages for one in page] == keys
        # Two siblings each; and of the next page, the one that tells that there is one.
        assert len(described) == 2 * (300 + 14)

    run(tmp_path, scene)


def test_a_page_of_large_values_is_bounded_in_bytes(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        keys = [f"key-{number:02}" for number in range(12)]
        for key in keys:
            await _contest(served.node.memory, [key], "x" * 300_000)
        pages = await _pages(served, 1_000)
        assert len(pages) > 3
        assert [one["key"] for page in pages for one in page] == keys

    run(tmp_path, scene)


def test_a_key_with_many_large_fields_takes_several_pages(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        trip = served.node.memory.space("team").map("trip")
        for number in range(6):
            for _ in range(2):
                await trip.set(f"stop-{number}", "x" * 300_000, observed=Observed())
        await _contest(served.node.memory, ["city"], "Rome")
        pages = await _pages(served, 1_000)
        assert len(pages) > 2
        found = [(one["datatype"], one["key"], str(one["field"])) for page in pages for one in page]
        assert len(found) == len(set(found)) == 7
        (whole,) = [page for page in await _pages(served, 1) if page[0]["key"] == "city"]
        assert len(whole) == 1
        assert sum(len(page) for page in await _pages(served, 1)) == 7

    run(tmp_path, scene)


def test_others_may_write_between_two_conflicts() -> None:
    async def scene() -> None:
        async with await Memory.open("memory:", tune_gc=False) as memory:
            await _contest(memory, ["a", "b", "c"], "Rome")
            rows = memory.engine.replica.conflicts(None, now_us())
            assert next(rows)[2] == "a"
            await memory.space("team").register("b").delete()
            await memory.space("team").put("a", "Oslo")
            assert [row[2] for row in rows] == ["c"]
            assert [one.key for one in await memory.conflicts()] == ["c"]

    asyncio.run(scene())
