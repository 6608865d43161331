"""A real node under more than it can do: bounded, fair, answerable, and losing nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crdtmem.admission import SMALL_BYTES
from crdtmem.control_frames import ERROR, EVENT, RESULT, encode_body, frame_of_messages
from crdtmem.errors import ConfigError
from crdtmem.settings import Settings
from tests.bench.service_overload import (
    SPACE,
    Outcome,
    Plan,
    Wire,
    ask,
    commit_of,
    flood,
    resident_bytes,
)
from tests.node.processes import NodeProcess
from tests.node.raw import RawConnection
from tests.server import hostile
from tests.waiting import eventually, wait_until

MIB = 1024 * 1024
REGISTER = 1


@contextlib.contextmanager
def a_node(folder: Path, *arguments: str) -> Iterator[NodeProcess]:
    with NodeProcess(folder, "--region=here", *arguments) as node:
        yield node


def admission_of(node: NodeProcess) -> dict[str, Any]:
    status: dict[str, Any] = asyncio.run(ask(node.socket, "status"))
    admission: dict[str, Any] = status["admission"]
    return admission


async def held_by(path: Path, expected: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return which keys do not hold at least the number that was acknowledged."""
    wire = await Wire.open(path)
    keys, wrong = sorted(expected), {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        kind, values = await wire.ask("get", (SPACE, part))
        assert kind == RESULT, values
        for key, value in zip(part, values, strict=True):
            number = value[0] if value else 0
            if number < expected[key]:
                wrong[key] = (number, expected[key])
    wire.close()
    return wrong


def test_ten_times_what_a_node_sustains_is_shared_fairly(tmp_path: Path) -> None:
    with a_node(tmp_path, "--set=admission.in_flight_operations=1024") as node:
        plan = Plan(seconds=4.0, overwrite=2_000)
        before = resident_bytes(node.pid)
        seen: Outcome = asyncio.run(flood(node.socket, node.pid, plan))
        assert not seen.errors
        # They were made to wait, not refused, and all were served.
        assert seen.held_up >= plan.floods // 2
        assert all(rate > 0 for rate in seen.flood_rates)
        assert seen.fairness > 0.9, seen.flood_rates
        # The modest client got all that it asked, and waited for what is taken in at most, not
        # behind all that the others would have sent.
        assert len(seen.modest_ms) == seen.modest_asked > 0
        transactions_per_s = sum(seen.flood_rates) / plan.puts
        waited_s = sorted(seen.modest_ms)[len(seen.modest_ms) // 2] / 1_000
        assert waited_s < 1 + 4 * 1_024 / transactions_per_s
        assert seen.status_ms
        assert seen.peak_bytes - before < 128 * MIB
        assert asyncio.run(held_by(node.socket, seen.acknowledged)) == {}
        node.kill()
        node.start()
        assert asyncio.run(held_by(node.socket, seen.acknowledged)) == {}


@pytest.mark.parametrize(
    ("value_bytes", "puts"), [(4_096, 8), pytest.param(1, 200, marks=pytest.mark.slow)]
)
def test_memory_stays_below_its_ceiling_reads_go_on_and_nothing_is_lost(
    tmp_path: Path, value_bytes: int, puts: int
) -> None:
    ceiling = 192 * MIB
    bounds = (f"--set=admission.memory_bytes={ceiling}", "--set=admission.in_flight_bytes=8MiB")
    with a_node(tmp_path, *bounds) as node:
        plan = Plan(seconds=3.0, value_bytes=value_bytes, puts=puts)
        seen, acknowledged = Outcome(), dict[str, int]()
        for number in range(10):
            # New keys every time: what is overwritten takes no more memory.
            plan = replace(plan, name=f"flood-{number}")
            seen = asyncio.run(flood(node.socket, node.pid, plan))
            acknowledged |= seen.acknowledged
            assert seen.peak_bytes < ceiling
            assert set(seen.errors) <= {"overloaded"}
            if seen.errors and admission_of(node)["writes_refused"]:
                break
        assert seen.errors["overloaded"] == seen.hints > 0
        with RawConnection(node.socket) as connection:
            connection.request(1, "commit", commit_of(["one more"], 1))
            assert connection.refusal() == "overloaded"
            connection.request(2, "get", (SPACE, ["modest-1"]))
            assert connection.answer()[1] == RESULT
            removal = (1, SPACE, REGISTER, "modest-1", "delete", (), None)
            body = ("local", 10_000, None), ("", 0, None, None, (removal,))
            connection.request(3, "commit", body)
            assert connection.answer()[1] == RESULT
        acknowledged.pop("modest-1", None)
        assert admission_of(node)["writes_refused"]
        node.kill()
        node.start()
        assert asyncio.run(held_by(node.socket, acknowledged)) == {}


def test_what_was_acknowledged_under_a_flood_survives_a_kill_in_its_midst(tmp_path: Path) -> None:
    with a_node(tmp_path) as node:
        seen = Outcome()

        async def flood_and_kill() -> None:
            flooding = asyncio.ensure_future(
                flood(node.socket, node.pid, Plan(seconds=30.0, overwrite=2_000), seen)
            )
            await eventually(lambda: len(seen.acknowledged) > 5_000, "flood")
            node.kill()
            # Whoever asks for the status is the first to find nobody there.
            with contextlib.suppress(EOFError, OSError):
                await flooding

        asyncio.run(flood_and_kill())
        node.start()
        assert asyncio.run(held_by(node.socket, seen.acknowledged)) == {}


def test_a_ceiling_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        Settings.from_sources({"admission": {"memory_bytes": 64 * MIB}}, {})
    assert refused.value.details["settings"] == (
        "admission.memory_bytes",
        "admission.in_flight_bytes",
    )


@pytest.mark.slow
def test_large_frames_that_never_end_hold_no_more_than_the_budget(tmp_path: Path) -> None:
    with (
        a_node(tmp_path, "--set=admission.in_flight_bytes=8MiB") as node,
        contextlib.ExitStack() as stack,
    ):
        before = resident_bytes(node.pid)
        for _ in range(24):
            connection = stack.enter_context(RawConnection(node.socket))
            connection.socket.setblocking(False)
            connection.socket.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                connection.send((8 * MIB - 1).to_bytes(4, "big") + bytes(7 * MIB))
        held = admission_of(node)
        assert held["bytes"] <= 16 * MIB + SMALL_BYTES
        assert held["waiting"] >= 20
        assert resident_bytes(node.pid) - before < 64 * MIB
        # Whoever asks little is served all the same.
        with RawConnection(node.socket) as modest:
            modest.request(1, "commit", commit_of(["k"], 1))
            assert modest.answer()[1] == RESULT
        stack.close()
        wait_until(lambda: admission_of(node)["bytes"] < MIB, "room given back")


def test_a_large_frame_that_never_ends_gives_its_room_back_in_time(tmp_path: Path) -> None:
    with (
        a_node(tmp_path, "--set=admission.receive_ms=300") as node,
        RawConnection(node.socket) as slow,
        RawConnection(node.socket) as small,
    ):
        slow.send((4 * MIB).to_bytes(4, "big") + bytes(MIB))
        # A small one may take its time: it holds next to nothing.
        small.send((1_000).to_bytes(4, "big") + bytes(10))
        wait_until(lambda: "did not arrive in time" in node.log(), "client cut off")
        assert slow.is_closed()
        assert admission_of(node)["bytes"] < MIB
        assert node.log().count("cut off") == 1


def test_all_large_frames_get_through_in_the_end(tmp_path: Path) -> None:
    """More are begun at once than the budget holds: each has to wait for those before it."""
    keys = [f"k{number}" for number in range(3)]
    with a_node(tmp_path, "--set=admission.in_flight_bytes=8MiB") as node:

        async def write(number: int) -> Any:
            wire = await Wire.open(node.socket)
            value = bytes([number]) * (MIB - 16)
            answer = await wire.ask("commit", commit_of(keys, value, space=(f"s{number}",)))
            wire.close()
            return answer[0]

        async def write_all() -> list[Any]:
            return await asyncio.gather(*(write(number) for number in range(12)))

        assert asyncio.run(write_all()) == [RESULT] * 12


def test_a_client_that_never_reads_holds_its_bound_and_is_cut_off(tmp_path: Path) -> None:
    with a_node(tmp_path, "--set=admission.unread_bytes=4MiB") as node:
        with RawConnection(node.socket) as writer:
            writer.request(1, "commit", commit_of(["large"], b"x" * (MIB - 16)))
            assert writer.answer()[1] == RESULT
        before = resident_bytes(node.pid)
        frame = frame_of_messages([encode_body((n, "get", (SPACE, ["large"]))) for n in range(200)])
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(RawConnection(node.socket)) for _ in range(8)]
            for connection in slow:
                connection.send(frame)
            wait_until(lambda: "cut off a client" in node.log(), "client cut off")
            wait_until(lambda: admission_of(node)["unread_bytes"] <= 4 * MIB, "bound kept")
            assert resident_bytes(node.pid) - before < 64 * MIB
        with RawConnection(node.socket) as reading:
            # Whoever reads gets it all, however much it is.
            reading.send(frame)
            for _ in range(200):
                assert reading.answer()[1] == RESULT


def test_answers_in_parts_are_bounded_per_client(tmp_path: Path) -> None:
    bounds = ("--set=admission.streams_per_client=3", "--set=admission.streams=5")
    with a_node(tmp_path, *bounds) as node, RawConnection(node.socket) as greedy:
        for number in range(1, 4):
            greedy.request(number, "subscribe", (None, 10, None))
            assert greedy.answer()[:2] == (number, EVENT)
        greedy.request(4, "subscribe", (None, 10, None))
        number, kind, answer = greedy.answer()
        assert (number, kind, answer[0]) == (4, ERROR, "overloaded")
        assert answer[3]["retry_after_ms"] > 0
        greedy.request(5, "cancel", 1)
        assert greedy.answer()[1] == RESULT
        greedy.request(6, "subscribe", (None, 10, None))
        assert greedy.answer()[:2] == (6, EVENT)
        held = admission_of(node)
        # A stream is held against nothing else.
        assert (held["streams"], held["operations"]) == (3, 1)
        greedy.socket.close()
        wait_until(lambda: admission_of(node)["streams"] == 0, "stream ended")


def test_one_that_asks_once_is_told_to_come_back_while_others_hold_all(tmp_path: Path) -> None:
    bounds = ("--set=admission.in_flight_operations=1", "--http=127.0.0.1:0")
    with a_node(tmp_path, *bounds) as node, contextlib.ExitStack() as stack:
        url = node.ready["http"]
        half_sent = hostile.put(hostile.length(bytes(9)), b"{")
        for _ in range(2):
            # What is not whole is held: nobody but its sender is waited for.
            stack.enter_context(hostile.Wire(node)).send(half_sent)

        def operations() -> int:
            # Who asks this way is not counted, and takes no place of those.
            with urllib.request.urlopen(f"{url}/v1/status", timeout=20) as status:
                return int(json.load(status)["admission"]["operations"])

        wait_until(lambda: operations() == 2, "writes held")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/v1/spaces", timeout=20)
        with refused.value as answer:
            problem = json.load(answer)
        assert answer.status == 429
        assert problem["code"] == "overloaded"
        assert int(answer.headers["Retry-After"]) >= 1
        with urllib.request.urlopen(f"{url}/v1/status", timeout=20) as status:
            assert json.load(status)["admission"]["refused"] == 1
        stack.close()
        wait_until(lambda: operations() == 0, "writes given back")
        with urllib.request.urlopen(f"{url}/v1/spaces", timeout=20) as spaces:
            assert spaces.status == 200
