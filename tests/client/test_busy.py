"""Nodes that are too busy, or may write no more: when their client comes back, and to whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crdtmem.asking import Handler, Request
from crdtmem.client import connect
from crdtmem.errors import CrdtmemError, Defect, Overloaded, ReplicaHalted
from crdtmem.memory import Memory
from crdtmem.verbs import memory_verbs
from tests.client.served import play, served

SPACE = ("busy",)


class Busy:
    """A verb that is too busy for the first calls, and says for how long."""

    def __init__(self, times: int, **details: Any) -> None:
        self.asked = 0
        self._times = times
        self._details = details

    def __call__(self, handler: Handler) -> Handler:
        def answer(request: Request, body: Any) -> None:
            self.asked += 1
            if self.asked <= self._times:
                raise Overloaded("too busy", hint="come back later", **self._details)
            handler(request, body)

        return answer


def test_a_busy_node_is_asked_again_when_it_says(carrier: str, tmp_path: Path) -> None:
    busy = Busy(3, retry_after_ms=20)

    def verbs(memory: Memory) -> dict[str, Handler]:
        usual = memory_verbs(memory)
        others = {
            verb: Busy(2, retry_after_ms=1)(usual[verb]) for verb in ("subscribe", "export", "keys")
        }
        return {"commit": busy(usual["commit"]), **others}

    async def scenario() -> None:
        async with served(carrier, tmp_path, verbs) as place, await connect(place.url) as client:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            await client.space(*SPACE).counter("n").increment()
            # Never before the time that the node named.
            assert loop.time() - began_s >= 0.06
            assert busy.asked == 4
            assert await client.space(*SPACE).counter("n").get() == 1
            feed = await client.changes(SPACE)
            await client.space(*SPACE).put("key", 1)
            assert (await anext(feed)).key == "key"
            assert await client.space(*SPACE).keys() == ["key"]
            assert len([record async for record in client.export(SPACE)]) == 2

    play(scenario)


def test_a_feed_that_is_cut_off_goes_on_when_the_node_says(carrier: str, tmp_path: Path) -> None:
    begun = 0

    def verbs(memory: Memory) -> dict[str, Handler]:
        usual = memory_verbs(memory)["subscribe"]

        async def break_off(request: Request) -> None:
            await request.emit([memory.engine.replica.context.vector.flat(), []])
            raise Overloaded("too many streams", hint="come back later", retry_after_ms=1)

        def subscribe(request: Request, body: Any) -> None:
            nonlocal begun
            begun += 1
            if begun <= 3:
                request.run(break_off(request))
            else:
                usual(request, body)

        return {"subscribe": subscribe}

    async def scenario() -> None:
        async with served(carrier, tmp_path, verbs) as place, await connect(place.url) as client:
            feed = await client.changes(SPACE)
            await client.space(*SPACE).put("key", 1)
            assert (await anext(feed)).key == "key"
            assert begun == 4

    play(scenario)


@pytest.mark.parametrize(
    ("busy", "options"),
    [
        (Busy(1_000, retry_after_ms=60_000), {}),
        (Busy(1_000), {}),
        (Busy(1_000, retry_after_ms=1), {"retry": False}),
    ],
    ids=["beyond the deadline", "without a hint", "without retries"],
)
def test_a_busy_node_is_not_asked_again(
    carrier: str, tmp_path: Path, busy: Busy, options: dict[str, Any]
) -> None:
    before = busy.asked

    async def scenario() -> None:
        async with (
            served(carrier, tmp_path, lambda m: {"read": busy(memory_verbs(m)["read"])}) as place,
            await connect(place.url, timeout_ms=2_000, **options) as client,
        ):
            with pytest.raises(Overloaded):
                await client.space(*SPACE).get("key")
            assert busy.asked == before + 1

    play(scenario)


def test_a_node_that_stays_busy_is_overloaded_by_the_deadline(carrier: str, tmp_path: Path) -> None:
    busy = Busy(1_000_000, retry_after_ms=10)

    async def scenario() -> None:
        async with (
            served(carrier, tmp_path, lambda m: {"read": busy(memory_verbs(m)["read"])}) as place,
            await connect(place.url, timeout_ms=200) as client,
        ):
            with pytest.raises(Overloaded):
                await client.space(*SPACE).get("key")
            assert 2 <= busy.asked <= 20

    play(scenario)


@pytest.mark.parametrize("refusal", [ReplicaHalted("evicted"), Defect("stopped")])
def test_a_node_that_writes_no_more_is_left_for_the_next(
    carrier: str, tmp_path: Path, refusal: CrdtmemError
) -> None:
    """Whatever that one still shows only grows older; where there is no other, it is told."""

    def refuse(request: Request, _: Any) -> None:
        request.set_exception(refusal)

    (tmp_path / "other").mkdir()

    async def scenario() -> None:
        async with (
            served(carrier, tmp_path, lambda _: {"commit": refuse}) as halted,
            served(carrier, tmp_path / "other") as other,
        ):
            async with await connect(halted.url) as client:
                with pytest.raises(type(refusal)):
                    await client.space(*SPACE).put("key", 1)
            async with await connect(halted.url, other.url) as client:
                assert client.replica_id == halted.memory.replica_id
                await client.space(*SPACE).put("key", 1)
                assert client.replica_id == other.memory.replica_id
            async with await connect(
                halted.url, f"unix://{tmp_path}/nobody.sock", timeout_ms=2_000
            ) as client:
                with pytest.raises(type(refusal)):
                    await client.session(timeout_ms=100).space(*SPACE).put("key", 1)
                assert await client.space(*SPACE).get("key") is None

    play(scenario)
