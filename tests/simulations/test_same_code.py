"""What a world runs *is* what production runs: the same classes, none of their methods replaced.

A simulation of something like the product proves something like the product.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import crdtmem.checkpointing
import crdtmem.collector
import crdtmem.durability
import crdtmem.engine
import crdtmem.epoch
import crdtmem.executor
import crdtmem.inbox
import crdtmem.membership
import crdtmem.memory
import crdtmem.recovery
import crdtmem.replica
import crdtmem.services
import crdtmem.store.memory
import crdtmem.sync
import crdtmem.table
from crdtmem.runtime import Runtime
from simulations.disk import DeviceFaults
from simulations.node import VirtualExecutor
from tests.simulations.ground import put_and_wait, world_of

# What a world is asked for (see crdtmem.executor), and one effect that a machine may die before.
WORLDS_VERBS = {"wall_us", "elapsed_us", "draw_id", "after", "run_in_store", "log"}
STATED = {"__init__", "carry_out"}


def own_methods(of: type) -> set[str]:
    return {name for name, item in vars(of).items() if isinstance(item, (FunctionType, property))}


def test_the_parts_of_a_simulated_node_are_the_production_classes() -> None:
    machine = world_of(1).machines["m0"]
    engine, executor = machine.engine, machine.executor
    assert executor is not None
    assert type(engine) is crdtmem.engine.Engine
    assert type(engine.replica) is crdtmem.replica.Replica
    assert type(engine.replica.inbox) is crdtmem.inbox.Inbox
    assert type(engine.state) is crdtmem.table.State
    assert type(engine.sync) is crdtmem.sync.Sync
    assert type(engine.membership) is crdtmem.membership.Membership
    assert type(engine.epoch) is crdtmem.epoch.Epoch
    assert type(engine.collector) is crdtmem.collector.Collector
    assert type(engine.durability) is crdtmem.durability.DurabilityWaits
    assert type(machine.store) is crdtmem.store.memory.MemoryStore
    assert type(machine.services) is crdtmem.services.Services
    assert type(executor.checkpointer) is crdtmem.checkpointing.Checkpointer


def test_machines_recover_as_production_does() -> None:
    from simulations import node

    assert vars(node)["open_engine"] is crdtmem.recovery.open_engine
    assert vars(node)["write_flight"] is crdtmem.executor.write_flight
    assert vars(crdtmem.memory)["open_engine"] is crdtmem.recovery.open_engine


def test_the_virtual_executor_overrides_the_worlds_verbs_and_what_is_stated() -> None:
    assert VirtualExecutor.__mro__[1] is crdtmem.executor.Executor
    overridden = own_methods(VirtualExecutor) & own_methods(crdtmem.executor.Executor)
    assert overridden == WORLDS_VERBS | STATED
    assert set(crdtmem.executor.Executor.__abstractmethods__) == WORLDS_VERBS


def test_the_runtime_overrides_no_more_of_the_contract() -> None:
    overridden = own_methods(Runtime) & own_methods(crdtmem.executor.Executor)
    # It also tells the loop when a flight is out, and answers tickets that nobody knows of.
    assert overridden == WORLDS_VERBS | {"__init__", "_persist", "note_landed", "stop_for"}
    for name in ("_persist", "stop_for"):
        assert f"super().{name}(" in inspect.getsource(getattr(Runtime, name))


def test_before_carrying_out_an_effect_a_machine_may_die_and_nothing_else() -> None:
    source = inspect.getsource(VirtualExecutor.carry_out)
    assert source.rstrip().endswith("\n        super().carry_out(effect)")
    assert source.count("raise Crashed") == source.count("raise") == 1
    assert "return" not in source


def test_devices_only_add_faults() -> None:
    assert own_methods(DeviceFaults) - {"__init__", "__repr__", "__eq__"} == {"next_sync"}
    assert "FaultPlan.next_sync(self)" in inspect.getsource(DeviceFaults.next_sync)


def attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    for name in getattr(thing, "__dict__", ()):
        yield name, getattr(thing, name)


def test_nothing_is_replaced_in_the_objects_of_a_world() -> None:
    world = world_of(3)
    put_and_wait(world.machines["m0"], [("k", 1)])
    world.run(1)
    for machine in world.machines.values():
        engine, executor = machine.engine, machine.executor
        assert executor is not None
        for thing in (
            engine, engine.replica, engine.sync, engine.membership, engine.epoch, executor,
            executor.checkpointer, machine.services, machine.store,
        ):  # fmt: skip
            methods = {name for kind in type(thing).__mro__ for name in own_methods(kind)}
            replaced = [name for name, _ in attributes(thing) if name in methods]
            assert not replaced, f"{type(thing).__name__}.{replaced}"


def test_the_check_for_replaced_methods_can_fail() -> None:
    engine = world_of(1).machines["m0"].engine
    engine.advance = lambda now_us: []  # type: ignore[method-assign]
    assert "advance" in dict(attributes(engine))
    assert "advance" in own_methods(type(engine))
