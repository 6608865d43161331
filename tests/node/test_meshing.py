"""The mesh inside a node: ports, duties, clocks, keys, and what happens when it breaks."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crdtmem.client import connect
from crdtmem.config import load_settings
from crdtmem.errors import ConditionFailed, ConfigError
from crdtmem.keys import load_ring
from crdtmem.mesh_verbs import members_of, mesh_status, ring_of
from crdtmem.node import Node
from crdtmem.settings import Settings, parse_address
from gossip.effects import Remember
from gossip.errors import KeyringError, UnknownMember
from gossip.keyring import KEYS_MAXIMUM, key_id
from gossip.messages import State
from tests.node.cluster import free_ports
from tests.waiting import eventually

LIMIT_S = 50.0


def settings_of(folder: Path, name: str, **given: Any) -> Settings:
    place = folder / name
    place.mkdir(exist_ok=True)
    return load_settings(
        None,
        {},
        {
            "region": "here",
            "node_name": name,
            "store": f"sqlite:///{place}/store.db",
            "control_socket": f"{place}/sock",
            "listen": "127.0.0.1:0",
            **{key.replace("__", "."): value for key, value in given.items()},
        },
    )


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Node]:
    node = await Node.start(settings, tune_gc=False)
    try:
        yield node
    finally:
        await node.stop()


@asynccontextmanager
async def cluster(folder: Path, count: int) -> AsyncIterator[list[Node]]:
    """Yield nodes that share the first one's ring, each with a copy, and see each other."""
    async with AsyncExitStack() as stack:
        first = settings_of(folder, "n0")
        nodes = [await stack.enter_async_context(started(first))]
        for number in range(1, count):
            ring = folder / f"ring{number}"
            shutil.copy(folder / "n0" / "store.db.keys", ring)
            given = {"mesh__keyring": str(ring), "join": nodes[0].peers.address}
            settings = settings_of(folder, f"n{number}", **given)
            nodes.append(await stack.enter_async_context(started(settings)))
        for node in nodes:
            await eventually(lambda node=node: alive(node) == count - 1, "sight of all")  # type: ignore[misc]
            await eventually(
                lambda node=node: node.memory.engine.epoch.is_member,  # type: ignore[misc]
                "admission",
            )
        yield nodes


def alive(node: Node) -> int:
    return sum(view.state is State.ALIVE for view in node.meshing.views())


def install(node: Node, key: bytes) -> None:
    node.meshing.command(lambda mesh, now, wall: mesh.install_key(key, now, wall))


def alarms(node: Node, name: str) -> list[str]:
    return [alarm.message for alarm in node.runtime.alarms if alarm.name == name]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(bounded())


# ------------------------------------------------------------------ one port


def test_streams_and_datagrams_have_one_port(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            driver = node.meshing.driver
            assert driver is not None
            assert driver.address == node.peers.address

    run(play)


def test_a_port_that_is_taken_for_datagrams_is_said(tmp_path: Path) -> None:
    async def play() -> None:
        (port,) = free_ports(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", port))
            with pytest.raises(ConfigError, match="no datagrams at"):
                await Node.start(settings_of(tmp_path, "n0", listen=f"127.0.0.1:{port}"))
        # Nothing of the failed start is left: neither lock nor port nor socket.
        async with started(settings_of(tmp_path, "n0", listen=f"127.0.0.1:{port}")) as node:
            assert parse_address(node.peers.address)[1] == port

    run(play)


def test_any_port_means_one_that_is_free_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first number that the kernel gives for streams is taken for datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]

        async def play() -> None:
            loop = asyncio.get_running_loop()
            create = loop.create_server
            asked: list[int] = []

            async def first_there(make: Any, host: str, port: int, **more: Any) -> Any:
                asked.append(port)
                return await create(make, host, number if len(asked) == 1 else port, **more)

            monkeypatch.setattr(loop, "create_server", first_there)
            async with started(settings_of(tmp_path, "n0")) as node:
                assert len(asked) == 2
                assert parse_address(node.peers.address)[1] != number

        run(play)


def test_an_address_that_is_too_long_to_be_told_is_a_wrong_setting(tmp_path: Path) -> None:
    """It used to be called a defect; and one that fitted only while the ring was small was one."""

    async def play() -> None:
        for length, fits in ((40, True), (60, False)):
            host = ".".join(["h" * length] * 4)
            settings = settings_of(tmp_path, "n0", advertise=f"{host}:7420")
            if fits:
                async with started(settings) as node:
                    for number in range(KEYS_MAXIMUM - 1):
                        install(node, bytes((number,)) * 32)
                    assert len(ring_of(node)["keys"]) == KEYS_MAXIMUM
                    assert mesh_status(node)["running"]
            else:
                with pytest.raises(ConfigError, match="cannot be told"):
                    await Node.start(settings, tune_gc=False)

    run(play)


# ------------------------------------------------------------------ what it tells the engine


def test_members_clocks_and_streams_come_from_the_mesh(tmp_path: Path) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 3) as nodes:
            for node in nodes:
                others = {other.memory.replica_id for other in nodes} - {node.memory.replica_id}
                engine = node.memory.engine
                await eventually(lambda: set(engine.sync.by_replica) == others, "streams")  # noqa: B023
                await eventually(lambda: set(engine.skew.probed_us) == others, "clocks")  # noqa: B023
                # One machine has one clock; what is measured is how busy it is.
                assert all(abs(offset) < 1_000_000 for offset in engine.skew.probed_us.values())
                rows = members_of(node)
                assert [row["here"] for row in rows] == [True, False, False]
                assert {row["replica"] for row in rows[1:]} == {f"{one:016x}" for one in others}
                assert {row["node"] for row in rows} == {"here/n0", "here/n1", "here/n2"}
                assert all(row["member"] and row["state"] == "alive" for row in rows)
                gateways = sorted(row["gateway"] or "" for row in rows)
                assert gateways == ["", "active", "warm"]
                states = mesh_status(node)["states"]
                assert states == {"alive": 2, "suspect": 0, "dead": 0, "left": 0}

    run(play)


def test_whom_the_mesh_found_is_remembered_in_the_store(tmp_path: Path) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            for node in nodes:
                store = node.runtime.store
                await eventually(lambda: store.metadata().get("mesh"), "memory")  # noqa: B023

    run(play)


def test_whom_the_mesh_met_last_is_remembered_at_the_stop(tmp_path: Path) -> None:
    """Who leaves is sought by nobody, so it must know itself where to come back to."""

    async def play() -> None:
        settings = settings_of(tmp_path, "n0")
        async with started(settings) as node:
            mesh = node.meshing.mesh
            assert mesh is not None
            # Remembered at most every 30 s, so that this is not, by itself, while the node runs.
            mesh._local._pool.agenda.set(("remember", 0), 1 << 60)
            mesh._local._rejoin.seek(77, "10.9.9.9:77")
        async with started(settings) as node:
            mesh = node.meshing.mesh
            assert mesh is not None
            assert mesh._local.knows(77)

    run(play)


def test_the_evicted_are_sought_no_more_listed_or_not(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            mesh = node.meshing.mesh
            assert mesh is not None
            mesh._local._rejoin.seek(77, "10.9.9.9:77")
            node.memory.engine.epoch.settled[77] = 1
            await eventually(lambda: not mesh._local.knows(77), "an end of the search")

    run(play)


def test_every_start_is_a_new_life_of_the_same_member(tmp_path: Path) -> None:
    async def play() -> None:
        lives = []
        for _ in range(3):
            async with started(settings_of(tmp_path, "n0")) as node:
                assert node.meshing.mesh is not None
                lives.append(node.meshing.mesh.me)
        assert len({life.member for life in lives}) == 1
        generations = [life.generation for life in lives]
        assert generations == sorted(set(generations))

    run(play)


def test_what_becomes_of_members_is_told_as_it_happens(tmp_path: Path) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            one, two = nodes
            async with await connect(one.readiness()["control"]) as client:
                events = await client.events("member_changes", ())
                told = aiter(events)
                assert await anext(told) == ()
                await two.stop()
                (change,) = await anext(told)
                assert change["node"] == "here/n1"
                assert change["replica"] == f"{two.memory.replica_id:016x}"
                assert (change["state"], change["previous"]) == ("left", "alive")
                await events.close()
            await eventually(lambda: not one.meshing._watchers, "end of the watch")

    run(play)


def test_who_does_not_take_what_it_watches_loses_the_oldest(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            queue = node.meshing.watch()
            for number in range(1_500):
                node.meshing._tell_watchers({"number": number})
            assert queue.qsize() == 1_000
            assert queue.get_nowait() == {"number": 500}
            node.meshing.unwatch(queue)

    run(play)


def test_whom_the_mesh_knows_is_kept_later_where_the_store_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            store = node.runtime.store
            put = store.put_metadata
            failed: list[int] = []

            def fail(values: Any) -> None:
                failed.append(1)
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(store, "put_metadata", fail)
            node.meshing._happened(Remember(b"who"))
            await eventually(lambda: failed, "failure")
            monkeypatch.setattr(store, "put_metadata", put)
            node.meshing._keep_us = 0
            await eventually(lambda: store.metadata().get("mesh") == b"who", "memory")

    run(play)


# ------------------------------------------------------------------ keys


def test_a_rotation_reaches_every_ring_and_every_file(tmp_path: Path) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            one, two = nodes
            fresh = b"n" * 32
            one.meshing.command(lambda mesh, now, wall: mesh.install_key(fresh, now, wall))
            await eventually(lambda: len(ring_of(two)["keys"]) == 2, "the key")
            number = int(next(k["key"] for k in ring_of(two)["keys"] if not k["primary"]), 16)
            await eventually(
                lambda: all(not key["missing"] for key in ring_of(one)["keys"]), "its spread"
            )
            one.meshing.command(lambda mesh, now, wall: mesh.use_key(number, now, wall))
            files = [tmp_path / "n0" / "store.db.keys", tmp_path / "ring1"]
            for file in files:
                await eventually(lambda: load_ring(file).primary.id == number, "the file")  # noqa: B023
            assert fresh.hex() not in str(ring_of(one)) + str(mesh_status(one))

    run(play)


@pytest.mark.parametrize("compromised", [False, True])
def test_streams_that_a_removed_key_sealed_are_opened_anew(
    tmp_path: Path, compromised: bool
) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            one, two = nodes
            await eventually(lambda: all(node.peers._streams for node in nodes), "stream")
            (former,) = [key["key"] for key in ring_of(one)["keys"]]
            old, fresh = int(former, 16), key_id(b"n" * 32)
            sealed_by = [stream.key for stream in one.peers._streams.values()]
            assert sealed_by == [old]
            one.meshing.command(lambda mesh, now, wall: mesh.install_key(b"n" * 32, now, wall))
            await eventually(lambda: not any(k["missing"] for k in ring_of(one)["keys"]), "key")
            one.meshing.command(lambda mesh, now, wall: mesh.use_key(fresh, now, wall))
            await eventually(lambda: len(ring_of(one)["keys"][0]["sealing"]) == 2, "its use")
            assert [stream.key for stream in one.peers._streams.values()] == [old]
            one.meshing.command(
                lambda mesh, now, wall: mesh.remove_key(old, now, wall, compromised=compromised)
            )
            for node in nodes:
                await eventually(
                    lambda node=node: [s.key for s in node.peers._streams.values()] == [fresh],  # type: ignore[misc]
                    "stream under the new key",
                )
            await one.memory.space("team").put("city", "Rome")
            await two.memory.wait_for(await one.memory.joined(), timeout_ms=20_000)

    run(play)


def test_a_ring_that_cannot_be_kept_is_an_alarm_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:

            def full(path: Path, dumped: bytes) -> None:
                raise ConfigError(f"the key ring at {path} cannot be written", hint="make room")

            monkeypatch.setattr("crdtmem.meshing.save_ring", full)
            node.meshing.command(lambda mesh, now, wall: mesh.install_key(b"n" * 32, now, wall))
            (said,) = alarms(node, "key ring")
            assert "cannot be written" in said
            assert len(ring_of(node)["keys"]) == 2

    run(play)


def test_plain_text_has_no_keys_to_rotate_and_says_so(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0", mesh__plain_text=True)) as node:
            assert ring_of(node) == {"sealed": False, "members": 1, "keys": []}
            with pytest.raises(KeyringError):
                node.meshing.command(lambda mesh, now, wall: mesh.install_key(b"n" * 32, now, wall))

    run(play)


# ------------------------------------------------------------------ when it breaks


def test_a_mesh_that_breaks_leaves_a_node_that_serves_and_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with cluster(tmp_path, 2) as nodes:
            one, two = nodes
            faults: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: faults.append(context)
            )

            def broken(now_us: int, wall_us: int) -> Any:
                raise RuntimeError("a planted defect")

            monkeypatch.setattr(one.meshing.mesh, "handle_timeout", broken)
            (said,) = await eventually(lambda: alarms(one, "mesh"), "alarm")
            assert "a planted defect" in said
            assert mesh_status(one)["running"] is False
            # What there is of streams stays, and so does what goes over them.
            await one.memory.space("team").put("city", "Rome")
            context = await one.memory.joined()
            await two.memory.wait_for(context, timeout_ms=20_000)
            assert await two.memory.space("team").get("city") == "Rome"
            assert len(alarms(one, "mesh")) == 1

    run(play)


def test_a_mesh_that_cannot_say_farewell_does_not_keep_the_node_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        node = await Node.start(settings_of(tmp_path, "n0"), tune_gc=False)

        def broken(now_us: int, wall_us: int) -> Any:
            raise RuntimeError("a planted defect")

        monkeypatch.setattr(node.meshing.mesh, "leave", broken)
        await node.stop()
        assert node.runtime.closed
        (said,) = alarms(node, "mesh")
        assert "a planted defect" in said
        # Port, store and socket are free again.
        address = node.peers.address
        async with started(settings_of(tmp_path, "n0", listen=address)) as again:
            assert again.peers.address == address

    run(play)


def test_who_was_evicted_is_sought_no_more_also_where_nobody_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            mesh = node.meshing.mesh
            assert mesh is not None
            forgotten: list[int] = []

            def forget(member: int, now_us: int, wall_us: int = 0) -> Any:
                forgotten.append(member)
                raise UnknownMember("nobody")

            monkeypatch.setattr(mesh, "forget", forget)
            node.memory.engine.epoch.settled[7] = 0
            await eventually(lambda: forgotten, "end of the search")
            node.memory.engine.epoch.settled[8] = 0
            await eventually(lambda: 8 in forgotten, "end of the next search")
            assert forgotten == [7, 8], "once each"

    run(play)


def test_a_mesh_that_does_not_run_refuses_commands(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(settings_of(tmp_path, "n0")) as node:
            assert node.meshing.driver is not None
            await node.meshing.driver.close()
            with pytest.raises(ConditionFailed, match="mesh"):
                node.meshing.command(lambda mesh, now, wall: mesh.install_key(b"n" * 32, now, wall))

    run(play)
