"""The stage with real processes: the same scenario files, the same verdict.

Problem: a simulator may be wrong about the world. What a scenario claims should also hold
where there are processes, sockets, files, signals, and a kernel that nobody controls.

Idea: the verbs of ``Stage`` over ``processes.Processes``. Time is scaled by the scenario's
``REAL_PACE``: links, loads and ``run`` alike, so that the story keeps its proportions;
what the nodes do by their own clocks is as it is. Instead of omniscient checkers there
are, at the end: equal vectors and digests everywhere, every acknowledged write joined
everywhere, and equal answers for every place that was ever written, siblings included.

Links are late, narrow and lossy as relays of streams can be: what is lost comes again,
later. Who is given up comes back, if it runs, under another id in the same process.

Invariants: no process and no file is left, whatever ends it; what a stage of processes
cannot do is refused with ``BadPlan``, never passed over.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from crdtmem.codec import freeze, pack
from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError, NotCovered, Unreachable
from crdtmem.reading import Reading
from simulations.errors import (
    BadPlan,
    LivenessViolation,
    MachineFailed,
    SafetyViolation,
    Violation,
)
from simulations.processes import Agents, Processes, Tally
from simulations.runner import Outcome
from simulations.stage import (
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
from simulations.world import SECOND

__all__ = ["RealStage", "run_real"]

T = TypeVar("T")

_CONVERGE_S: Final = 60.0
_LOOK_S: Final = 0.05
_TRIES: Final = 5
_ONE_SCENARIO_ONLY: Final = "with real processes it cannot be done: play it in the simulator"


class RealStage(Stage):
    """A stage whose machines are processes. Use ``with``."""

    real: ClassVar[bool] = True

    def __init__(self, seed: int, pace: float, tell: Callable[[str], None]) -> None:
        super().__init__(seed, Random(seed), tell)
        self.pace = pace
        self.tally = Tally()
        self.converged_us = 0
        self._places: dict[str, str] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="crdtmem-stage-"))
        self._runner = asyncio.Runner()
        self._processes: Processes | None = None
        self._agents: Agents | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._began_s = time.monotonic()
        self._loads = 0
        self._ids: dict[str, int] = {}
        self._given_up: set[int] = set()

    def __enter__(self) -> RealStage:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._processes is not None:
                self._wait(self._close(self._processes))
        finally:
            self._runner.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _close(self, processes: Processes) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await processes.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @property
    def _cluster(self) -> Processes:
        if self._processes is None:
            raise BadPlan("the stage is empty: call start first")
        return self._processes

    # ------------------------------------------------------------------ building

    def settings(self, **settings: int) -> None:
        """See ``Stage``."""
        self._refuse("settings")

    def regions(self, *names: str, machines: int = 1, by: str = PEERS) -> list[str]:
        """See ``Stage``."""
        if by != PEERS:
            self._refuse(f"machines that find each other by {by}")
        added = {
            region if machines == 1 else f"{region}-{number}": region
            for region in names
            for number in range(1, machines + 1)
        }
        self._places.update(added)
        return list(added)

    def start(self, *, topology: str = "mesh") -> None:
        """See ``Stage``."""
        if topology != "mesh":
            self._refuse(f"a topology of {topology}")
        self._processes = Processes(self._places, self._folder, self.pace)
        self._agents = Agents(self._processes, self.tally)
        self._wait(self._processes.start())
        self._look_up()
        self._began_s = time.monotonic()

    def add(self, name: str, region: str) -> None:
        """See ``Stage``."""
        self._places[name] = region
        self._wait(self._cluster.add(name, region))

    @property
    def machines(self) -> list[str]:
        """See ``Stage``."""
        return list(self._places)

    @property
    def now_s(self) -> float:
        """See ``Stage``: in seconds of the scenario."""
        return (time.monotonic() - self._began_s) / self.pace

    def _in_region(self, region: str) -> list[str]:
        return [name for name, place in self._places.items() if place == region]

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
        machines = self.named(on) if on is not None else self.machines
        names = mixed(workload)
        for name in names:
            steps = WORKLOADS[name].steps(
                self.random,
                clients or 2 * len(machines),
                len(machines),
                int(for_s * SECOND),
                rate_per_s / len(names),
            )
            self._spawn(self._work(machines, steps))
            self._loads += 1

    async def _work(self, machines: list[str], steps: list[Step]) -> None:
        agents, loop = self._agents, asyncio.get_running_loop()
        assert agents is not None
        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for step in steps:
                due_s = began_s + step.at_us / SECOND * self.pace
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                machine = machines[step.machine % len(machines)]
                group.create_task(agents.perform(machine, step))

    def do(self, machine: str, datatype: str, key: str, operation: str, *arguments: Any) -> Receipt:
        """See ``Stage``."""
        (name,) = self.named(machine)
        row = [list(SPACE), datatype, key, operation, list(arguments)]
        written = {"operations": [row], "author": "scenario"}
        receipt = Receipt()
        self._spawn(self._write(name, Step(0, 0, 0, "write", written), receipt))
        return receipt

    async def _write(self, machine: str, step: Step, receipt: Receipt) -> None:
        assert self._agents is not None
        receipt.result, receipt.code = await self._agents.attempt(machine, step)
        receipt.outcome = "refused" if receipt.code else "ok"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def spawn() -> None:
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._wait(spawn())

    def reading(self, machine: str, key: str, datatype: str = "register") -> Reading:
        """See ``Stage``."""
        client = self._cluster.nodes[machine].client
        return self._wait(client.read(SPACE, DATATYPES[datatype].code, key))

    # ------------------------------------------------------------------ the network

    def cut(self, whom: Whom, off: Whom | None = None) -> None:
        """See ``Stage``."""
        near = self.named(whom)
        far = self.others(near) if off is None else self.named(off)
        self._mute([(a, b) for a in near for b in far] + [(b, a) for a in near for b in far])

    def one_way(self, deaf: Whom, to: Whom | None = None) -> None:
        """See ``Stage``."""
        near = self.named(deaf)
        far = self.others(near) if to is None else self.named(to)
        self._mute([(b, a) for a in near for b in far])

    def _mute(self, pairs: list[tuple[str, str]]) -> None:
        for speaker, listener in pairs:
            if speaker != listener:
                self._cluster.mute(speaker, listener)

    def heal(self) -> None:
        """See ``Stage``."""
        self._wait(self._heal())

    async def _heal(self) -> None:
        self._cluster.heal()

    def links(self, whom: Whom, to: Whom | None = None, **wrong: float) -> None:
        """See ``Stage``: loss, latency, jitter and width, of what is sent from now on."""
        near = self.named(whom)
        for one in near:
            for other in self.others(near) if to is None else self.named(to):
                if one != other:
                    self._cluster.spoil(one, other, wrong)

    # ------------------------------------------------------------------ machines

    def crash(self, whom: Whom, *, silent: bool = False) -> None:
        """See ``Stage``: with real processes the kernel tells the peers."""
        for name in self.named(whom):
            self._wait(self._cluster.kill(name))

    def stop(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._wait(self._cluster.end(name))

    def restart(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            if not self._cluster.is_up(name):
                self._wait(self._cluster.begin(name))

    def pause(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._cluster.signal(name, signal.SIGSTOP)

    def resume(self, whom: Whom) -> None:
        """See ``Stage``."""
        for name in self.named(whom):
            self._cluster.signal(name, signal.SIGCONT)

    def is_up(self, machine: str) -> bool:
        """See ``Stage``."""
        return self._cluster.is_up(machine)

    # ------------------------------------------------------------------ the system

    def _refuse(self, what: str) -> NoReturn:
        raise BadPlan(f"{what}: {_ONE_SCENARIO_ONLY}")

    def fault(self, name: str, **arguments: Any) -> None:
        """See ``Stage``."""
        self._refuse(f"the fault {name}")

    def clock(self, whom: Whom, *, jump_s: float = 0.0, drift_ppm: int | None = None) -> None:
        """See ``Stage``."""
        self._refuse("setting clocks")

    def disk(
        self,
        whom: Whom,
        *,
        full: bool | None = None,
        fails: float | None = None,
        slow: int | None = None,
    ) -> None:
        """See ``Stage``."""
        self._refuse("breaking disks")

    def mend_disks(self) -> None:
        """See ``Stage``."""
        self._refuse("mending disks")

    def backup(self, machine: str) -> None:
        """See ``Stage``."""
        self._refuse("copying stores")

    def restore(self, machine: str, *, hidden: bool = False) -> None:
        """See ``Stage``."""
        self._refuse("restoring stores")

    def clone(self, machine: str, name: str, *, hidden: bool = False) -> None:
        """See ``Stage``."""
        self._refuse("cloning machines")

    def evict(self, victim: str, *, by: str, forced: bool = False) -> None:
        """See ``Stage``."""
        self._look_up()
        try:
            self._wait(self._cluster.evict(self._ids[victim], by, forced=forced))
        except CrdtmemError as refused:
            raise BadPlan(f"{by} refuses to give {victim} up: {refused}") from refused
        self._given_up.add(self._ids[victim])

    def rejoin(self, whom: Whom) -> None:
        """See ``Stage``."""
        self._refuse("rejoining")

    def upgrade(self, whom: Whom, version: int = 2) -> None:
        """See ``Stage``."""
        self._refuse("another version of the program")

    # ------------------------------------------------------------------ looking

    def replica_id(self, machine: str) -> int:
        """See ``Stage``."""
        self._look_up()
        return self._ids[machine]

    def _look_up(self) -> None:
        """Note under which id each running node writes; of one that died, the last is known."""
        for name, status in self._wait(self._cluster.statuses()).items():
            self._ids[name] = int(status["replica"], 16)

    def alarms(self, name: str) -> int:
        """See ``Stage``."""
        statuses = self._wait(self._cluster.statuses()).values()
        return sum(alarm["name"] == name for status in statuses for alarm in status["alarms"])

    def reached(self, name: str) -> int:
        """See ``Stage``."""
        return 0

    # ------------------------------------------------------------------ time

    def run(self, seconds: float) -> None:
        """See ``Stage``."""
        self._wait(asyncio.sleep(seconds * self.pace))

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, within_s: float = 60.0
    ) -> float:
        """See ``Stage``: real processes get the whole time, whatever the pace."""
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > within_s:
                raise LivenessViolation("liveness", f"after {within_s} s there is still no {what}")
            self._wait(asyncio.sleep(_LOOK_S))
        return time.monotonic() - began_s

    def converge(self, within_s: float = 60.0, *, whom: Whom | None = None) -> float:
        """See ``Stage``."""
        names = self.machines if whom is None else self.named(whom)
        return self.wait_until(lambda: self._agree(names), "convergence", within_s=within_s)

    def _agree(self, names: list[str]) -> bool:
        statuses = self._wait(self._cluster.statuses())
        seen = [status for name, status in statuses.items() if name in names]
        return all(
            status["vector"] == seen[0]["vector"] and status["digest"] == seen[0]["digest"]
            for status in seen
        )

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Mend everything, wait until all is done and all agree, then judge."""
        self.resume(self.machines)
        self.heal()
        self.restart(self.machines)
        self.wait_until(lambda: not self._tasks, "end of the agents' work", within_s=_CONVERGE_S)
        self.converged_us = int(self.converge(_CONVERGE_S) * SECOND)
        for _ in range(_TRIES):
            before = self._wait(self._vectors())
            complaint = self._wait(self._compare())
            if complaint is None:
                return
            # Collection goes on by itself: judged are answers of one moment.
            if self._wait(self._vectors()) == before:
                break
            self.converge(_CONVERGE_S)
        assert complaint is not None
        raise complaint

    async def _vectors(self) -> list[dict[str, int]]:
        return [status["vector"] for status in (await self._cluster.statuses()).values()]

    async def _compare(self) -> SafetyViolation | None:
        """Return what is wrong: a write that is missing, a place that reads differently."""
        answers: dict[tuple[Any, ...], tuple[str, bytes]] = {}
        for machine, node in self._cluster.nodes.items():
            vector = (await node.client.joined()).vector
            for replica, last in self.tally.acknowledged.items():
                # Of who was given up, what lies beyond the cut is set aside to be rescued.
                if replica not in self._given_up and vector.get(replica, 0) < last:
                    words = f"{machine} lacks what {replica:016x} acknowledged"
                    return SafetyViolation("acknowledged", words)
            for place in self.tally.places:
                reading = await node.client.read(*place)
                dots = [str(entry[0]) for entry in reading.entries]
                answer = pack(freeze([reading.value, dots]))
                other, known = answers.setdefault(place, (machine, answer))
                # What expires is judged by the clock: it may go between two readings.
                if known != answer and not _may_expire(reading):
                    words = f"{machine} and {other} read {place} differently"
                    return SafetyViolation("agreement", words)
        return None


def _may_expire(reading: Reading) -> bool:
    return not reading.entries or any(entry[2].expires_at_us for entry in reading.entries)


def _first(error: BaseException) -> BaseException:
    """Return the first single error in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_real(
    name_or_path: str | Scenario,
    seed: int | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Play a scenario with real processes; returns what came of it.

    Raises ``BadPlan`` for a scenario that is for the simulator only.
    """
    scenario = name_or_path
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    if scenario.simulator_only:
        raise BadPlan(f"{scenario.name} is for the simulator only: {scenario.simulator_only}")
    outcome = Outcome(scenario.seed if seed is None else seed)
    with RealStage(outcome.seed, scenario.real_pace, tell) as stage:
        try:
            scenario.play(stage)
            stage.finish()
        except Violation as violation:
            outcome.verdict = "safety" if isinstance(violation, SafetyViolation) else "liveness"
            outcome.checker, outcome.message = violation.checker, violation.message
        except NotCovered as late:
            outcome.verdict, outcome.checker = "liveness", "liveness"
            outcome.message = str(late)
        except (Unreachable, MachineFailed) as dead:
            outcome.verdict, outcome.checker = "crash", type(dead).__name__
            outcome.message = str(dead)
        except ExceptionGroup as group:
            fault = _first(group)
            outcome.verdict, outcome.checker = "crash", type(fault).__name__
            outcome.message = str(fault)
        outcome.converged_us = stage.converged_us
        outcome.calls = dict(sorted(stage.tally.outcomes.items()))
    return outcome
