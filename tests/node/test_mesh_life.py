"""Which life a node's member lives: above one of a copy that is over, durable before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import crdtmem.mesh_life
import crdtmem.meshing
from crdtmem.links import MESH_OFFSET
from crdtmem.node import Node
from gossip.driver import steady_us
from gossip.effects import Outlived
from gossip.messages import State
from gossip.succession import SETTLING_US
from tests.node.test_meshing import alarms, cluster, run, settings_of, started
from tests.waiting import eventually


def life_of(node: Node) -> int:
    assert node.meshing.mesh is not None
    return node.meshing.mesh.me.generation


def test_a_node_that_a_copy_outlived_goes_on_in_a_later_life_also_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy had left the mesh in a later life of its id, and everybody refused it for ever."""
    clock_us = 0
    monkeypatch.setattr(crdtmem.mesh_life, "steady_us", lambda: steady_us() + clock_us)
    monkeypatch.setattr(crdtmem.meshing, "steady_us", lambda: steady_us() + clock_us)

    async def play() -> None:
        nonlocal clock_us
        async with cluster(tmp_path, 2) as (one, two):
            member, before = two.memory.replica_id, life_of(two)
            two.meshing.command(lambda _mesh, _now, _wall: [Outlived(before + 4)])
            await eventually(lambda: two.meshing._life._succession.due_us, "a claim")
            assert life_of(two) == before, "it settles first"
            clock_us += 2 * SETTLING_US
            await eventually(lambda: life_of(two) == before + 5, "the later life")
            assert len(alarms(two, "mesh: outlived")) == 1

            def is_seen() -> bool:
                views = {view.record.member: view for view in one.meshing.views()}
                view = views[member]
                assert view.state is not State.LEFT
                return (view.record.generation, view.state) == (before + 5, State.ALIVE)

            await eventually(is_seen, "sight of the later life")
            assert two.memory.replica_id == member
            settings = two.settings
        async with started(settings) as again:
            assert again.memory.replica_id == member
            assert life_of(again) == before + 6

    run(play)


def test_a_later_life_that_cannot_be_kept_is_not_begun_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_us = 0
    monkeypatch.setattr(crdtmem.mesh_life, "steady_us", lambda: steady_us() + clock_us)
    monkeypatch.setattr(crdtmem.meshing, "steady_us", lambda: steady_us() + clock_us)

    async def play() -> None:
        nonlocal clock_us
        async with started(settings_of(tmp_path, "n0")) as node:
            before, store = life_of(node), node.runtime.store
            put = store.put_metadata
            refused: list[int] = []

            def refuse(items: Any) -> None:
                if MESH_OFFSET in items and not refused:
                    refused.append(1)
                    raise OSError("a planted fault")
                put(items)

            monkeypatch.setattr(store, "put_metadata", refuse)
            node.meshing.command(lambda _mesh, _now, _wall: [Outlived(before)])
            succession = node.meshing._life._succession
            await eventually(lambda: succession.due_us, "a claim")
            clock_us += 2 * SETTLING_US
            await eventually(lambda: refused and succession.due_us, "another claim")
            assert life_of(node) == before
            clock_us += 3 * SETTLING_US
            await eventually(lambda: life_of(node) == before + 1, "the later life")

    run(play)
