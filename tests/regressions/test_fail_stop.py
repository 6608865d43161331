"""A machine that breaks stops, and says so: it once went on with what was left half changed.

Harm: an exception while a flight was staged or published was logged by the event loop; callers
waited for ever, and later writes stood on a state that no log leads to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crdtmem.causality import Context
from crdtmem.cli import main
from crdtmem.cli.ending import EXIT_DEFECT
from crdtmem.engine import Engine
from crdtmem.errors import Closed, Defect
from crdtmem.memory import Memory
from tests.memories import fresh_url, opened, peek
from tests.waiting import eventually


def breaking(*_: Any, **__: Any) -> Any:
    """Stand in for a method of the machine that has a bug."""
    raise ZeroDivisionError("a bug")


def break_staging(memory: Memory) -> None:
    memory.engine.replica._stage_transaction = breaking  # type: ignore[method-assign]


def break_publishing(memory: Memory) -> None:
    memory.engine.membership.published = breaking  # type: ignore[method-assign]


def break_notifying(memory: Memory) -> None:
    subscription = memory.listen(10)
    subscription.push = breaking  # type: ignore[method-assign]


@pytest.mark.parametrize("harm", [break_staging, break_publishing, break_notifying])
def test_whoever_waits_is_told_and_nothing_goes_on(harm: Callable[[Memory], None]) -> None:
    url = fresh_url()

    async def run() -> None:
        memory = await opened(url)
        await memory.space("s").put("kept", 1)
        told: list[str] = []
        memory.runtime.on_defect.append(lambda: told.append("stopped"))
        feed = await memory.changes()
        reader = asyncio.create_task(memory.wait_for(Context({9: 9}), timeout_ms=60_000))
        await eventually(lambda: len(memory.engine.replica._waiting), "waiter")
        harm(memory)
        writes = [asyncio.ensure_future(memory.space("s").put(f"k{n}", n)) for n in range(3)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(reader, *writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Defect] * 4
        assert told == ["stopped"]
        assert [alarm.name for alarm in memory.runtime.alarms] == ["defect"]
        with pytest.raises(Closed):
            async for _ in feed:
                pass
        for late in (
            memory.space("s").put("late", 1),
            memory.wait_for(Context()),
            memory.space("s").get("kept"),
        ):
            with pytest.raises(Defect):
                await late
        async with asyncio.timeout(5):
            await memory.close()
        again = await opened(url)
        assert peek(again, "s", "kept") == 1
        # What was staged but never persisted is gone; what was persisted is there, whole.
        durable = harm is not break_staging
        assert [peek(again, "s", f"k{n}") for n in range(3)] == [
            n if durable else None for n in range(3)
        ]
        await again.close()

    asyncio.run(run())


@pytest.mark.parametrize("step", ["handle_timeout", "receive", "next_deadline_us", "advance"])
def test_no_input_of_the_machine_may_break_unnoticed(step: str) -> None:
    async def run() -> None:
        memory = await opened(fresh_url())
        engine, runtime = memory.engine, memory.runtime
        setattr(engine, step, breaking)
        if step == "receive":
            runtime.attempt(lambda: engine.receive(1, b"", 0))
        elif step == "handle_timeout":
            runtime.attempt(lambda: engine.handle_timeout(0))
        else:
            engine.kept.due = True
            runtime.apply([])
        await eventually(lambda: runtime.defect is not None, "defect")
        async with asyncio.timeout(5):
            await memory.close()

    asyncio.run(run())


def test_a_broken_background_task_stops_it_too() -> None:
    async def run() -> None:
        memory = await opened(fresh_url())

        async def task() -> None:
            breaking()

        memory.runtime.spawn(task())
        await eventually(lambda: memory.runtime.defect is not None, "defect")
        with pytest.raises(Defect):
            async with memory.runtime.quiet():
                pass
        await memory.close()

    asyncio.run(run())


def test_a_machine_too_broken_to_refuse_anybody_still_tells_everybody() -> None:
    async def run() -> None:
        memory = await opened(fresh_url())
        reader = asyncio.create_task(memory.wait_for(Context({9: 9}), timeout_ms=60_000))
        await eventually(lambda: len(memory.engine.replica._waiting), "waiter")
        memory.engine.refuse_everyone = breaking  # type: ignore[method-assign]
        memory.runtime.attempt(breaking)
        with pytest.raises(Defect):
            async with asyncio.timeout(5):
                await reader
        await memory.close()

    asyncio.run(run())


def test_a_node_that_breaks_ends_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "persisted", breaking)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "node",
                "--json",
                f"--store=sqlite:///{tmp_path}/store.db",
                f"--control-socket={tmp_path}/node.sock",
                "--listen=127.0.0.1:0",
            ]
        )
    assert ended.value.code == EXIT_DEFECT == 7
    ready, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready["ready"] is True
    assert error["error"]["code"] == "defect"
    assert "ZeroDivisionError" in error["error"]["message"]
    assert not (tmp_path / "node.sock").exists()
