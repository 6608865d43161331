"""The rules of registers, sets, flags and logs, told from operations alone."""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.entries import as_slot
from simulations.errors import SafetyViolation
from tests.simulations.lives import Life, operation, read, write

SPACE = ("s",)


def _race(kind: str, before: list[str], here: str, there: str, *arguments: Any) -> Life:
    """A life in which two machines that do not hear each other do something to one key."""
    life = Life(2, ["semantics"])
    for name in before:
        life.do(0, write(operation("s", kind, "k", name, *arguments)))
    life.settle()
    life.world.network.cut(["m0"], ["m1"])
    life.do(0, write(operation("s", kind, "k", here, *arguments)), client=1)
    life.do(1, write(operation("s", kind, "k", there, *arguments)), client=2)
    life.world.network.heal(["m0"], ["m1"])
    life.settle()
    return life


@pytest.mark.parametrize(
    ("kind", "add", "take", "stays"),
    [
        ("set", "add", "remove", True),
        ("set_remove_wins", "add", "remove", False),
        ("flag", "enable", "disable", True),
        ("flag_disable_wins", "enable", "disable", False),
    ],
)
def test_an_addition_beside_a_removal(kind: str, add: str, take: str, *, stays: bool) -> None:
    arguments = ["x"] if kind.startswith("set") else []
    life = _race(kind, [add], add, take, *arguments)
    value = life.do(0, read("s", kind, "k"), client=3).result.value
    assert bool(value) == stays
    life.checker.finished()
    _turn_over(life, kind)
    with pytest.raises(SafetyViolation, match="and must show"):
        life.checker.finished()


def _turn_over(life: Life, kind: str) -> None:
    """Make of what is in what is out, and the other way round."""
    for machine in life.world.up():
        slots = machine.engine.state.table(SPACE, DATATYPES[kind].code).slots
        held = slots["k"]["x"] if kind.startswith("set") else slots["k"]
        (dot, _, stamp), *_ = held if type(held[0]) is tuple else [held]
        if kind.endswith("wins"):
            turned: Any = (dot, True, stamp)
        else:
            turned = None
        if kind.startswith("set"):
            slots["k"] = {"x": turned} if turned else {}
        elif turned:
            slots["k"] = turned
        else:
            del slots["k"]


@pytest.mark.parametrize("clear", ["clear", "delete"])
def test_clearing_takes_out_what_is_in_and_leaves_removals_alone(clear: str) -> None:
    life = Life(2, ["semantics"])
    for name, element in (("add", "in"), ("remove", "out")):
        life.do(0, write(operation("s", "set_remove_wins", "k", name, element)))
    life.do(0, write(operation("s", "set_remove_wins", "k", clear)))
    life.do(0, write(operation("s", "set_remove_wins", "k", "add", "again")))
    call = life.do(0, read("s", "set_remove_wins", "k"))
    assert call.result.value == ["again"]
    life.settle()
    life.checker.finished()


def test_a_lost_sibling_is_missed() -> None:
    life = _race("register", [], "set", "set", "v")
    life.checker.finished()
    for machine in life.world.up():
        slots = machine.engine.state.table(SPACE, DATATYPES["register"].code).slots
        slots["k"] = as_slot([slots["k"][0]])
    with pytest.raises(SafetyViolation, match="must show"):
        life.checker.finished()


def test_a_log_in_the_wrong_order_is_noticed() -> None:
    life = _race("log", ["append"], "append", "append", "entry")
    life.do(0, write(operation("s", "log", "k", "extend", ["a", "b"])), client=1)
    life.settle()
    life.checker.finished()
    for machine in life.world.up():
        fields = machine.engine.state.table(SPACE, DATATYPES["log"].code).slots["k"]
        first, *_, last = sorted(fields, key=lambda name: fields[name][2].order)
        (one, value, stamp), (two, other, later) = fields[first], fields[last]
        fields[first], fields[last] = (one, value, later), (two, other, stamp)
    with pytest.raises(SafetyViolation, match="must show"):
        life.checker.finished()


def test_an_append_that_was_written_twice_shows_once() -> None:
    life = Life(2, ["semantics"])
    life.world.network.cut(["m0"], ["m1"])
    machine = life.machine(0)
    machine.device.sync_us = 1
    machine.dies_after_effects = 1
    life.do(0, write(operation("s", "log", "k", "append", "once")))
    assert [call.outcome for call in life.history.calls] == ["unknown", "ok"]
    life.world.network.heal(["m0"], ["m1"])
    machine.start()
    life.settle()
    life.world.run(10)
    life.settle()
    assert life.do(1, read("s", "log", "k")).result.value == ["once"]
    life.checker.finished()
