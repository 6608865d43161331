"""The executor of a simulated node: the production one, in a world of events.

Problem: the order of effects, failed commits, checkpoints, retirement and repair must be those
of production, and the world must be able to stop them anywhere, even between two effects.

Idea: ``VirtualExecutor`` is the production ``Executor`` with the world's five verbs played by
the kernel. A ``Ticket`` is what a simulated caller waits for.

Invariants: nothing of a life goes on in the next one; before an effect a machine may die, and
nothing else is different.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from crdtmem.effects import Alarm, Effect, Retire
from crdtmem.engine import Engine
from crdtmem.errors import CrdtmemError
from crdtmem.executor import Done, Executor
from crdtmem.store import Store
from simulations.errors import MachineFailed
from simulations.kernel import Event

if TYPE_CHECKING:
    from simulations.node import Machine

__all__ = ["Crashed", "Ticket", "VirtualExecutor"]


class Crashed(BaseException):
    """A crash that was asked for takes place here, in the middle of carrying out effects."""


class Ticket:
    """What a simulated caller waits for: ``answered`` is called once, with either."""

    __slots__ = ("_answered", "_done")

    def __init__(self, answered: Callable[[Any, CrdtmemError | None], None]) -> None:
        self._answered = answered
        self._done = False

    def done(self) -> bool:
        """Tell whether it has been answered."""
        return self._done

    def set_result(self, result: Any) -> None:
        """Answer it."""
        self._done = True
        self._answered(result, None)

    def set_exception(self, error: CrdtmemError) -> None:
        """Refuse it."""
        self._done = True
        self._answered(None, error)


class VirtualExecutor(Executor):
    """The production executor, in a world of events."""

    def __init__(self, engine: Engine, store: Store, machine: Machine) -> None:
        super().__init__(engine, store)
        self.machine = machine

    def wall_us(self) -> int:
        """Return what the machine's clock shows."""
        return self.machine.clock.now_us()

    def elapsed_us(self) -> int:
        """Return true time: a machine's timers count that."""
        return self.machine.world.kernel.now_us

    def draw_id(self) -> int:
        """Return a replica id drawn from the world's seed."""
        return self.machine.draw_id()

    def after(self, delay_us: int, work: Callable[[], None]) -> Event:
        """Let something be called later, if this life lasts."""
        machine = self.machine
        return machine.world.kernel.after(delay_us, machine.fire, self, work)

    def run_in_store(self, work: Callable[[], Any], done: Done) -> None:
        """Do work with the store once the disk gets to it."""
        machine = self.machine
        delay_us = machine.device.delay_us(machine.world.kernel.now_us)
        machine.storing += 1
        machine.world.kernel.after(delay_us, machine.fire, self, partial(self._store, work, done))

    def _store(self, work: Callable[[], Any], done: Done) -> None:
        self.machine.storing -= 1
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - handed on, as a thread's future does
            done(None, error)
        else:
            done(result, None)

    def log(self, alarm: Alarm, fault: BaseException | None = None) -> None:
        """Show an alarm to the world; a fault of the machine ends the run."""
        if fault is not None and not isinstance(fault, CrdtmemError):
            raise MachineFailed(f"{self.machine.name}: {alarm.message}") from fault
        self.machine.world.alarmed(self.machine, alarm)

    def carry_out(self, effect: Effect) -> None:
        """Carry out one effect, unless the machine dies before it."""
        machine = self.machine
        if machine.dies_after_effects is not None:
            if machine.dies_after_effects == 0:
                raise Crashed
            machine.dies_after_effects -= 1
        if type(effect) is Retire:
            machine.world.gave_up(machine, effect.cuts)
        super().carry_out(effect)
