"""A world: machines in regions, the network between them, and those who watch.

Problem: faults, workloads, checkers and scenarios all need the same few things: the
machines, the time, the chance, and to be told what happened.

Idea: the ``World`` holds the kernel, the trace, the network and the machines, offers
the verbs in which scenarios are written, and passes what happens to its watchers.
Checkers are watchers that raise a ``Violation``. What a campaign must have seen at
least once is noted by ``sometimes``.

Invariants: watchers look and never touch; the world's own bookkeeping is invisible to
the nodes in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.effects import Alarm
from crdtmem.limits import Limits
from crdtmem.sync_host import SyncConfig
from gossip.effects import Deliver, MemberChanged
from simulations.errors import LivenessViolation
from simulations.kernel import Kernel
from simulations.network import Network
from simulations.node import Machine
from simulations.regions import one_way_us
from simulations.trace import Trace

__all__ = ["SECOND", "Watcher", "World", "WorldConfig"]

SECOND: Final = 1_000_000

SMALL_LIMITS: Final = Limits(
    key_bytes=256, value_bytes=1 << 14, batch_bytes=1 << 16, frame_bytes=1 << 20
)
"""Small limits, so that they are met: what is rare at 4 MiB is common at 64 KiB."""


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """What all machines of a world have in common. Times are microseconds.

    ``sync_us`` is a disk's mean time for one fsync; ``linger_us`` how long a commit waits
    for others; a checkpoint is written whenever the log has grown by
    ``checkpoint_bytes``, and the sync log is cut to ``sync_log_bytes`` after it;
    ``buffer_bytes`` is what may lie unsent on one stream.
    """

    sync_us: int = 1_000
    linger_us: int = 0
    checkpoint_bytes: int = 1 << 16
    sync_log_bytes: int = 1 << 18
    buffer_bytes: int = 1 << 22
    limits: Limits = SMALL_LIMITS
    sync: SyncConfig = field(default_factory=lambda: SyncConfig(credit_bytes=1 << 20))


class Watcher:
    """Somebody who is told what happens. Every method may be left as it is."""

    def started(self, machine: Machine) -> None:
        """A node has recovered, or goes on under a new id, and has done nothing yet."""

    def ended(self, machine: Machine) -> None:
        """A node is gone."""

    def published(self, machine: Machine) -> None:
        """A node's vector has just grown."""

    def alarmed(self, machine: Machine, alarm: Alarm) -> None:
        """A node raised an alarm."""

    def gave_up(self, machine: Machine, cuts: Mapping[int, int]) -> None:
        """A node gives its id up; what lies beyond the cuts it will set aside."""

    def harmed(self, machine: Machine, what: str) -> None:
        """What was durable on a machine's disk was damaged, lost, or put back to what it was.

        From here on that machine alone proves nothing; what it had shared with others must
        still be there. ``what`` is ``rot``, ``lost tail``, ``restored`` or ``lost disk``.
        """

    def meshed(self, machine: Machine) -> None:
        """A node is about to take part in the mesh, under its id and generation of now."""

    def left(self, machine: Machine) -> None:
        """A node is about to say farewell to the mesh."""

    def outlived(self, machine: Machine) -> None:
        """A node is about to begin a later life in the mesh, without a farewell."""

    def member_changed(self, machine: Machine, change: MemberChanged) -> None:
        """A node's mesh holds something else of a member."""

    def broadcast(self, machine: Machine, payload: bytes) -> None:
        """A node is about to broadcast something in its region."""

    def delivered(self, machine: Machine, delivery: Deliver) -> None:
        """A node's mesh hands over what a member broadcast."""

    def finished(self) -> None:
        """The world has healed and come to rest."""


class World:
    """One simulated world. See the module."""

    def __init__(
        self,
        seed: int,
        config: WorldConfig | None = None,
        *,
        keep: bool = False,
        mesh_kind: str = "",
    ) -> None:
        """``mesh_kind`` is a key of ``mesh.MESHES``, or empty where peers are configured."""
        self.kernel = Kernel(seed)
        self.mesh_kind = mesh_kind
        self.mesh_key = self.kernel.random("mesh/key").randbytes(32)
        self.trace = Trace(keep=keep)
        self.config = config or WorldConfig()
        self.network = Network(self.kernel, self.trace)
        self.machines: dict[str, Machine] = {}
        self.watchers: list[Watcher] = []
        self.reached: Counter[str] = Counter()
        self.alarms: Counter[str] = Counter()
        # How often everything was healed: what a fault still had in mind is off then.
        self.heals = 0

    # ------------------------------------------------------------------ building

    def add(self, name: str, region: str | None = None) -> Machine:
        """Add a machine, not started; ``region`` is a key of ``REGIONS``, the name by default."""
        machine = Machine(self, name, region or name, len(self.machines) + 1)
        self.machines[name] = machine
        self.network.add(name, machine, self._latency_us)
        return machine

    def _latency_us(self, here: str, there: str) -> int:
        return one_way_us(self.machines[here].region, self.machines[there].region)

    def mesh(self, names: Iterable[str] | None = None) -> None:
        """Let each of the machines know all others as peers."""
        listed = list(self.machines if names is None else names)
        for name in listed:
            self.machines[name].peers = [other for other in listed if other != name]

    def seed_mesh(self, names: Iterable[str] | None = None, *, chain: bool = False) -> None:
        """Give each machine the first one for a seed; with ``chain`` the one before it.

        The first has none, and founds: see ``Run.found``.
        """
        listed = list(self.machines if names is None else names)
        for number, name in enumerate(listed[1:], 1):
            self.machines[name].seeds = [listed[number - 1 if chain else 0]]

    def start(self) -> None:
        """Start every machine."""
        for machine in self.machines.values():
            machine.start()

    # ------------------------------------------------------------------ time

    @property
    def elapsed_s(self) -> float:
        """How long the world has existed, in seconds."""
        return self.kernel.elapsed_us / SECOND

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.kernel.run(self.kernel.now_us + int(seconds * SECOND))

    def after(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        """Let something happen later."""
        self.kernel.after(int(seconds * SECOND), function, *arguments)

    def run_until(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        within_s: float,
        step_s: float = 0.25,
        checker: str = "liveness",
    ) -> float:
        """Let time pass until something is so; returns the seconds that it took.

        Raises ``LivenessViolation``, in the name of ``checker``, if it is not so in time.
        """
        began_s = self.elapsed_s
        while not condition():
            if self.elapsed_s - began_s >= within_s:
                raise LivenessViolation(checker, f"after {within_s} s there is still no {what}")
            self.run(step_s)
        return self.elapsed_s - began_s

    # ------------------------------------------------------------------ looking

    def up(self) -> Iterator[Machine]:
        """Yield the machines on which a node runs."""
        return (machine for machine in self.machines.values() if machine.up)

    def converged(self) -> bool:
        """Tell whether all nodes have the same vector, and nothing on the way."""
        vectors = [machine.engine.state.vector for machine in self.up()]
        return all(vector == vectors[0] for vector in vectors) and not any(
            machine.replica.flight is not None or machine.replica.has_work for machine in self.up()
        )

    # ------------------------------------------------------------------ telling

    def note(self, kind: str, lane: str, other: str = "", number: int = 0) -> None:
        """Put something into the trace."""
        self.trace.note(self.kernel.now_us, kind, lane, other, number)

    def sometimes(self, name: str) -> None:
        """Note that something rare happened, which a campaign must have seen."""
        self.reached[name] += 1

    def started(self, machine: Machine) -> None:
        """Tell the watchers."""
        for watcher in self.watchers:
            watcher.started(machine)

    def ended(self, machine: Machine) -> None:
        """Tell the watchers."""
        for watcher in self.watchers:
            watcher.ended(machine)

    def published(self, machine: Machine) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "publish", machine.name)
        for watcher in self.watchers:
            watcher.published(machine)

    def alarmed(self, machine: Machine, alarm: Alarm) -> None:
        """Tell the watchers, and count it."""
        self.alarms[alarm.name] += 1
        self.trace.note(self.kernel.now_us, "alarm", machine.name, alarm.name)
        for watcher in self.watchers:
            watcher.alarmed(machine, alarm)

    def gave_up(self, machine: Machine, cuts: Mapping[int, int]) -> None:
        """Tell the watchers."""
        for watcher in self.watchers:
            watcher.gave_up(machine, cuts)

    def harmed(self, machine: Machine, what: str) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "harm", machine.name, what)
        for watcher in self.watchers:
            watcher.harmed(machine, what)

    def meshed(self, machine: Machine) -> None:
        """Tell the watchers."""
        for watcher in self.watchers:
            watcher.meshed(machine)

    def left(self, machine: Machine) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "leave", machine.name)
        for watcher in self.watchers:
            watcher.left(machine)

    def outlived(self, machine: Machine) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "outlived", machine.name)
        for watcher in self.watchers:
            watcher.outlived(machine)

    def member_changed(self, machine: Machine, change: MemberChanged) -> None:
        """Tell the watchers, and the trace."""
        state = "gone" if change.gone else change.state.name.lower()
        about = change.record.member & 0xFFFF_FFFF
        self.trace.note(self.kernel.now_us, "member", machine.name, state, about)
        for watcher in self.watchers:
            watcher.member_changed(machine, change)

    def broadcast(self, machine: Machine, payload: bytes) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "broadcast", machine.name)
        for watcher in self.watchers:
            watcher.broadcast(machine, payload)

    def delivered(self, machine: Machine, delivery: Deliver) -> None:
        """Tell the watchers, and the trace."""
        self.trace.note(self.kernel.now_us, "delivered", machine.name)
        for watcher in self.watchers:
            watcher.delivered(machine, delivery)

    def finished(self) -> None:
        """Tell the watchers that all is done."""
        for watcher in self.watchers:
            watcher.finished()
