"""The stage in virtual time: a scenario's verbs over a simulated world, all checkers watching.

Problem: a scenario must be held to everything that a campaign's run is held to, and yet
read as a story, one thing after another.

Idea: ``start`` makes a ``Run`` of a plan that has machines and nothing else; verbs then do
at once to its world what injections and steps do in a campaign. When the story ends, all
is mended, and the run goes through its ordinary liveness phase. What comes of it is an
ordinary ``Outcome``.

Invariants: a scenario and a seed give one trace hash, however often they are played;
verbs make no time pass but those that say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from crdtmem.crdt import DATATYPES
from crdtmem.reading import Reading
from gossip.messages import State
from simulations.errors import BadPlan
from simulations.faults import FAULTS, clean_links
from simulations.faults.disk import mend_disk
from simulations.faults.network import spoil
from simulations.founding import await_gathering, found_in_waves, link_hubs
from simulations.history import Call
from simulations.kernel import Kernel
from simulations.mesh import MESHES, name_of
from simulations.node import Machine
from simulations.operators import evict, rejoin
from simulations.picture import Divergence
from simulations.plan import Place, Plan
from simulations.runner import Outcome, Run
from simulations.stage import (
    FINAL_S,
    PEERS,
    SPACE,
    Receipt,
    Scenario,
    Stage,
    Whom,
    load_scenario,
    mixed,
)
from simulations.steps import Step
from simulations.workloads import WORKLOADS
from simulations.world import SECOND, World

__all__ = ["HUBS", "SimulatedStage", "run_scenario"]

HUBS: Final = "hubs"
_FIRST_WRITER: Final = 1_000_000


def _silent(_: str) -> None:
    """Tell nobody."""


class SimulatedStage(Stage):
    """A stage whose machines, clocks, disks and network are simulated."""

    def __init__(
        self, seed: int, *, keep: bool = False, tell: Callable[[str], None] = _silent
    ) -> None:
        super().__init__(seed, Kernel(seed).random("stage"), tell)
        self.played: Run | None = None
        self.divergence: Divergence | None = None
        self._keep = keep
        self._places: list[Place] = []
        self._config: dict[str, int] = {}
        self._mesh = ""
        self._clients = 0
        self._writes = 0

    @property
    def world(self) -> World:
        """The world, for scenarios that need what no verb offers. Only after ``start``."""
        if self.played is None:
            raise BadPlan("the stage is empty: call start first")
        return self.played.world

    # ------------------------------------------------------------------ building

    def settings(self, **settings: int) -> None:
        """See ``Stage``."""
        self._config.update({name.replace("__", "."): item for name, item in settings.items()})

    def regions(self, *names: str, machines: int = 1, by: str = PEERS) -> list[str]:
        """See ``Stage``."""
        if self.played is not None:
            raise BadPlan("the cluster runs: use add")
        mesh = "" if by == PEERS else by.replace("mesh", "lan")
        if (mesh and mesh not in MESHES) or (self._places and mesh != self._mesh):
            raise BadPlan(f"{by} is no way, or another, in which machines find each other")
        self._mesh = mesh
        added = [
            Place(region if machines == 1 else f"{region}-{number}", region)
            for region in names
            for number in range(1, machines + 1)
        ]
        self._places += added
        return [place.name for place in added]

    def start(self, *, topology: str = "mesh") -> None:
        """See ``Stage``."""
        plan = Plan(
            seed=self.seed,
            machines=tuple(self._places),
            topology="star" if topology == HUBS else topology,
            config=self._config,
            mesh=self._mesh,
            liveness_us=int(FINAL_S * SECOND),
        )
        self.played = Run(plan, keep=self._keep)
        if self._keep:
            self.divergence = Divergence(self.world)
            self.world.watchers.append(self.divergence)
        first = self.machines[0]
        if topology == HUBS and not self._mesh:
            hubs = link_hubs(self.world)
            found_in_waves(self.world, [[first], hubs, self.others(hubs)])
        elif topology == "star" and not self._mesh:
            found_in_waves(self.world, [[first], self.others(first)])
        else:
            self.played.found()

    def add(self, name: str, region: str) -> None:
        """See ``Stage``."""
        others = self.machines
        machine = self.world.add(name, region)
        machine.meet(others)
        machine.start()

    @property
    def machines(self) -> list[str]:
        """See ``Stage``."""
        if self.played is None:
            return [place.name for place in self._places]
        return list(self.world.machines)

    @property
    def now_s(self) -> float:
        """See ``Stage``."""
        return 0.0 if self.played is None else self.world.elapsed_s

    def _in_region(self, region: str) -> list[str]:
        return [m.name for m in self.world.machines.values() if m.region == region]

    def _machine(self, name: str) -> Machine:
        (name,) = self.named(name)
        return self.world.machines[name]

    def _running(self, name: str) -> Machine:
        machine = self._machine(name)
        if not machine.up:
            raise BadPlan(f"{machine.name} is down: there is nothing to ask there")
        return machine

    # ------------------------------------------------------------------ agents

    def load(
        self,
        workload: str = "mixed",
        *,
        rate_per_s: float = 10.0,
        for_s: float = 10.0,
        clients: int | None = None,
        on: Whom | None = None,
    ) -> None:
        """See ``Stage``."""
        names = mixed(workload)
        machines = self.named(on) if on is not None else self.machines
        count = clients or 2 * len(machines)
        played, kernel = self.played, self.world.kernel
        assert played is not None
        index = {name: number for number, name in enumerate(self.machines)}
        for name in names:
            # Whole clients per workload, so that each has a story of its own.
            steps = WORKLOADS[name].steps(
                kernel.random(f"load/{self._clients}/{name}"),
                count,
                len(machines),
                int(for_s * SECOND),
                rate_per_s / len(names),
            )
            for step in steps:
                machine = index[machines[step.machine % len(machines)]]
                client = self._clients + step.client
                moved = replace(step, client=client, machine=machine)
                kernel.after(step.at_us, played.clients.perform, moved)
            self._clients += count

    def do(self, machine: str, datatype: str, key: str, operation: str, *arguments: Any) -> Receipt:
        """See ``Stage``."""
        (name,) = self.named(machine)
        row = [list(SPACE), datatype, key, operation, list(arguments)]
        played, self._writes = self.played, self._writes + 1
        assert played is not None
        # Each by a client of its own: no write waits for another's answer.
        step = Step(
            at_us=0,
            client=_FIRST_WRITER + self._writes,
            machine=self.machines.index(name),
            kind="write",
            arguments={"operations": [row], "author": "scenario", "session": False},
        )
        played.clients.perform(step)
        call, receipt = played.history.calls[-1], Receipt()
        if call.is_open:
            client_ended = call.ended

            def ended(call: Call) -> None:
                if client_ended is not None:
                    client_ended(call)
                _fill(receipt, call)

            call.ended = ended
        else:
            _fill(receipt, call)
        return receipt

    def reading(self, machine: str, key: str, datatype: str = "register") -> Reading:
        """See ``Stage``."""
        node = self._running(machine)
        return node.replica.read(SPACE, DATATYPES[datatype].code, key, node.clock.now_us())

    # ------------------------------------------------------------------ the network

    def _pairs(self, here: Whom, there: Whom | None) -> Iterator[tuple[str, str]]:
        near = self.named(here)
        far = self.others(near) if there is None else self.named(there)
        return ((a, b) for a in near for b in far if a != b)

    def cut(self, whom: Whom, off: Whom | None = None) -> None:
        """See ``Stage``."""
        for a, b in self._pairs(whom, off):
            self.world.network.cut([a], [b])

    def one_way(self, deaf: Whom, to: Whom | None = None) -> None:
        """See ``Stage``."""
        for a, b in self._pairs(deaf, to):
            self.world.network.cut([b], [a], one_way=True)

    def heal(self) -> None:
        """See ``Stage``."""
        for (a, b), link in self.world.network.links.items():
            if link.cut:
                self.world.note("heal", a, b)
        clean_links(self.world)

    def links(self, whom: Whom, to: Whom | None = None, **wrong: float) -> None:
        """See ``Stage``."""
        for a, b in self._pairs(whom, to):
            for here, there in ((a, b), (b, a)):
                spoil(self.world.network.link(here, there), wrong, self.world.kernel.now_us)
                self.world.note(next(iter(wrong)), here, there)

    # ------------------------------------------------------------------ machines

    def crash(self, whom: Whom, *, silent: bool = False) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._machine(name).crash(silent=silent)

    def stop(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._machine(name).stop()

    def restart(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._machine(name).start()

    def pause(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._machine(name).pause()

    def resume(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._machine(name).resume()

    def is_up(self, machine: str) -> bool:
        """See ``Stage``."""
        return self._machine(machine).up

    # ------------------------------------------------------------------ the system

    def fault(self, name: str, **arguments: Any) -> None:
        """See ``Stage``."""
        if name not in FAULTS:
            raise BadPlan(f"no fault is called {name}; there are {', '.join(FAULTS)}")
        self.world.note("fault", name)
        FAULTS[name].apply(self.world, arguments)

    def clock(self, whom: Whom, *, jump_s: float = 0.0, drift_ppm: int | None = None) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            clock = self._machine(name).clock
            clock.jump(int(jump_s * SECOND))
            if drift_ppm is not None:
                clock.drift(drift_ppm)
            self.world.note("clock", name, number=int(jump_s * SECOND))

    def disk(
        self,
        whom: Whom,
        *,
        full: bool | None = None,
        fails: float | None = None,
        slow: int | None = None,
    ) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            device = self._machine(name).device
            device.faults.full = device.faults.full if full is None else full
            device.faults.fails = device.faults.fails if fails is None else fails
            device.slow = device.slow if slow is None else slow
            self.world.note("disk", name)

    def mend_disks(self) -> None:
        """See ``Stage``."""
        for machine in self.world.machines.values():
            mend_disk(machine)
            self.world.note("disk mended", machine.name)

    def backup(self, machine: str) -> None:
        """See ``Stage``."""
        self._machine(machine).device.back_up()

    def restore(self, machine: str, *, hidden: bool = False) -> None:
        """See ``Stage``."""
        node = self._machine(machine)
        if not node.device.backups:
            raise BadPlan(f"there is no backup of {machine}")
        node.crash()
        node.device.disk.restore(node.device.backups[-1], with_mark=hidden)
        self.world.harmed(node, "restored")
        node.start()

    def clone(self, machine: str, name: str, *, hidden: bool = False) -> None:
        """See ``Stage``."""
        original = self._machine(machine)
        copy = self.world.add(name, original.region)
        copy.meet(self.machines)
        content = original.device.disk.copy()
        copy.device.disk.restore(content, with_mark=hidden)
        if hidden:
            copy.device.disk.inode = original.device.disk.inode
        self.world.harmed(copy, "restored")
        copy.start()

    def evict(self, victim: str, *, by: str, forced: bool = False) -> None:
        """See ``Stage``."""
        assert self.played is not None
        # Also of one that is down: the id of its last life.
        replica = self.played.history.views[self._machine(victim).name].replica
        refused = evict(self._running(by), replica, forced=forced)
        if refused is not None:
            raise BadPlan(f"{by} refuses to give {victim} up: {refused}")

    def rejoin(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            refused = rejoin(self._running(name))
            if refused is not None:
                raise BadPlan(f"{name} cannot rejoin: {refused}")

    def upgrade(self, whom: Whom, version: int = 2) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            machine = self._machine(name)
            machine.stop()
            machine.speaks = (1, version)
            self.world.note("upgrade", name, number=version)
            machine.start()

    # ------------------------------------------------------------------ looking

    def replica_id(self, machine: str) -> int:
        """See ``Stage``."""
        return self._running(machine).engine.replica_id

    def shown(self, machine: str) -> list[str]:
        """See ``Stage``."""
        life = self._running(machine).mesh
        if life is None:
            raise BadPlan("these machines have no mesh: see regions")
        addresses = {
            name_of(view.record.profile.gossip_address)
            for view in life.mesh.members()
            if view.state <= State.SUSPECT
        }
        return [name for name in self.machines if name in addresses]

    def gather(self) -> float:
        """See ``Stage``."""
        return await_gathering(self.world)

    def alarms(self, name: str) -> int:
        """See ``Stage``."""
        return self.world.alarms[name]

    def reached(self, name: str) -> int:
        """See ``Stage``."""
        return self.world.reached[name]

    # ------------------------------------------------------------------ time

    def run(self, seconds: float) -> None:
        """See ``Stage``."""
        self.world.run(seconds)

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, within_s: float = 60.0
    ) -> float:
        """See ``Stage``."""
        return self.world.run_until(condition, what, within_s=within_s)

    def converge(self, within_s: float = 60.0, *, whom: Whom | None = None) -> float:
        """See ``Stage``."""
        names = self.machines if whom is None else self.named(whom)
        took_s = self.world.run_until(
            lambda: self._agree(names), "convergence", within_s=within_s, step_s=0.1
        )
        self.world.note("converged", "")
        return took_s

    def _agree(self, names: list[str]) -> bool:
        machines = [self.world.machines[name] for name in names]
        running = [machine for machine in machines if machine.up]
        vectors = [machine.engine.state.vector for machine in running]
        return all(vector == vectors[0] for vector in vectors) and not any(
            machine.replica.flight is not None or machine.replica.has_work for machine in running
        )

    # ------------------------------------------------------------------ telling

    def say(self, text: str) -> None:
        """See ``Stage``."""
        super().say(text)
        if self.played is not None:
            self.world.note("say", "", text)


def run_scenario(
    name_or_path: str | Scenario,
    seed: int | None = None,
    *,
    keep: bool = False,
    tell: Callable[[str], None] = _silent,
    stage: SimulatedStage | None = None,
) -> Outcome:
    """Play a scenario in virtual time; returns what came of it.

    ``keep`` keeps the trace, for pictures; ``stage`` is a fresh one of the caller's, who
    wants to look at it afterwards. Raises ``BadPlan`` for what cannot be played.
    """
    scenario = name_or_path
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    if stage is None:
        stage = SimulatedStage(scenario.seed if seed is None else seed, keep=keep, tell=tell)
    failed: Exception | None = None
    try:
        scenario.play(stage)
    except Exception as fault:  # noqa: BLE001 - judged below, whatever it is
        failed = fault
    if stage.played is None:
        raise failed or BadPlan(f"{scenario.name} never starts its stage")
    played = stage.played

    def end() -> None:
        if failed is not None:
            raise failed
        stage.mend_disks()
        played.liveness()

    try:
        return played.judge(end)
    finally:
        stage.say("the scenario has ended")


def _fill(receipt: Receipt, call: Call) -> None:
    receipt.outcome, receipt.result, receipt.code = call.outcome, call.result, call.code
