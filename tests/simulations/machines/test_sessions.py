"""Agents who move between regions with what they have seen, and with questions unanswered.

Problem: what a cluster promises, it promises to somebody who wrote here, got no answer,
asked there, and reads in a third place.

Idea: each client appends lines that nobody else appends to one log, adds elements to a set
that it may remove later, and counts; now and then it reads all three, wherever it is.
What it sees is compared with what it wrote and saw before: nothing of the simulator's
checkers is needed to tell that a session is broken.

Invariants, of every read that was answered in a session: *own writes* are there;
whatever was seen *before* is there; whoever sees a line sees *all that its writer had seen*
when it wrote; what was removed and seen to be gone stays gone. At the end each
acknowledged operation counts exactly once, however often it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from simulations.errors import SafetyViolation
from simulations.history import Call
from tests.simulations.machines.cluster import TINY, Cluster
from tests.simulations.machines.harm import MACHINES, Network
from tests.simulations.machines.profiles import deep, small

CLIENTS = st.integers(0, 3)
MOMENTS_S = st.sampled_from([0.003, 0.03, 0.1, 0.3, 1.0, 4.0])
RANDOMS = st.randoms(use_true_random=False)
SPACE = ["sessions"]
_FAULTS = [
    "ambiguous_sync",
    "crash_loop",
    "die",
    "failing_disk",
    "flap",
    "loss",
    "overlap",
    "pause",
    "slow_disk",
    "torn_write",
]


@dataclass
class Agent:
    """What one client has seen and done, as it knows itself."""

    lines: set[int] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    added: list[str] = field(default_factory=list)


class Sessions(Network):
    """See the module."""

    @initialize(seed=st.integers(0, 1 << 16), size=st.integers(2, 3), tiny=st.booleans())
    def begin(self, seed: int, size: int, tiny: bool) -> None:
        self.cluster = Cluster(seed, size, TINY if tiny else {})
        self.agents = [Agent() for _ in range(4)]
        # What the writer of each line had seen when it asked for it.
        self.before: dict[int, set[int]] = {}
        self.looked_at = 0
        self.numbers = 0

    # ------------------------------------------------------------------ clients

    @rule(
        client=CLIENTS,
        index=MACHINES,
        durability=st.sampled_from(["local", "local", "majority"]),
        timeout_ms=st.sampled_from([100, 2_000]),
    )
    def append(self, client: int, index: int, durability: str, timeout_ms: int) -> None:
        """A line and one step of the counter, asked for until somebody answers."""
        self.numbers += 1
        rows = [
            [SPACE, "log", "lines", "append", [self.numbers]],
            [SPACE, "counter", "lines", "increment", [1]],
        ]
        arguments = {"retries": 6, "durability": durability, "timeout_ms": timeout_ms}
        self.cluster.ask(client, index, "write", operations=rows, **arguments)

    @rule(client=CLIENTS, index=MACHINES)
    def add(self, client: int, index: int) -> None:
        self.numbers += 1
        element = f"{client}/{self.numbers}"
        self.agents[client].added.append(element)
        row = [SPACE, "set", "elements", "add", [element]]
        self.cluster.ask(client, index, "write", operations=[row], retries=2)

    @rule(client=CLIENTS, index=MACHINES)
    def remove(self, client: int, index: int) -> None:
        """Its newest element, which nobody adds twice."""
        added = self.agents[client].added
        if added:
            row = [SPACE, "set", "elements", "remove", [added.pop()]]
            self.cluster.ask(client, index, "write", operations=[row], retries=2)

    @rule(client=CLIENTS, index=MACHINES, timeout_ms=st.sampled_from([100, 5_000]))
    def look(self, client: int, index: int, timeout_ms: int) -> None:
        for datatype, key in (("log", "lines"), ("set", "elements"), ("log", "lines")):
            arguments = {"space": SPACE, "datatype": datatype, "key": key}
            self.cluster.ask(client, index, "read", timeout_ms=timeout_ms, retries=1, **arguments)

    # ------------------------------------------------------------------ what goes wrong

    @rule(seconds=MOMENTS_S)
    def wait(self, seconds: float) -> None:
        self.cluster.run(seconds)

    @rule(index=MACHINES, down_s=st.sampled_from([0.01, 1.0]))
    def restart(self, index: int, down_s: float) -> None:
        machine = self.cluster.machine(index)
        machine.crash()
        self.cluster.world.after(down_s, machine.start)

    @rule(name=st.sampled_from(_FAULTS), random=RANDOMS)
    def strike(self, name: str, random: Random) -> None:
        self.cluster.strike(name, random)

    # ------------------------------------------------------------------ the promises

    @invariant()
    def hold_sessions(self) -> None:
        """Go through the answers since the last look, in the order in which they were given."""
        if not hasattr(self, "cluster"):
            return
        calls = self.cluster.history.calls
        ended = [c for c in calls[self.looked_at :] if not c.is_open]
        if len(ended) < len(calls) - self.looked_at:
            # Answers are taken in order of asking; a client's are in order anyhow.
            ended = ended[: next(i for i, c in enumerate(calls[self.looked_at :]) if c.is_open)]
        self.looked_at += len(ended)
        for call in ended:
            if call.code == "not_covered":
                # It may begin a new session after this, from nothing.
                self.agents[call.client] = Agent(added=self.agents[call.client].added)
            elif call.step.kind == "write":
                self.wrote(call)
            elif call.outcome == "ok":
                self.saw(call)

    def wrote(self, call: Call) -> None:
        agent = self.agents[call.client]
        datatype, name, element = (call.step.arguments["operations"][0][i] for i in (1, 3, 4))
        if datatype == "log" and call.attempt == 0:
            self.before[element[0]] = set(agent.lines)
        if call.dots is None:
            return
        if datatype == "log":
            agent.lines.add(element[0])
        elif name == "remove":
            agent.gone.add(element[0])

    def saw(self, call: Call) -> None:
        agent = self.agents[call.client]
        value: Any = call.result.value
        if call.step.arguments["datatype"] == "set":
            back = agent.gone & set(value)
            self.require(not back, call, f"{sorted(back)} came back")
            return
        missing = agent.lines - set(value)
        self.require(not missing, call, f"lines {sorted(missing)} are not there")
        for line in value:
            unseen = self.before.get(line, set()) - set(value)
            self.require(not unseen, call, f"line {line} is there without {sorted(unseen)}")
        agent.lines |= set(value)

    def require(self, fine: bool, call: Call, message: str) -> None:
        if not fine:
            raise SafetyViolation("sessions", f"client {call.client} on {call.machine}: {message}")

    # ------------------------------------------------------------------ the end

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.settle()
        self.hold_sessions()
        machine = next(cluster.world.up())
        lines = cluster.read(machine, tuple(SPACE), "log", "lines").value
        count = cluster.read(machine, tuple(SPACE), "counter", "lines").value
        acknowledged = {
            call.step.arguments["operations"][0][4][0]
            for call in cluster.history.written_calls()
            if call.step.kind == "write" and call.step.arguments["operations"][0][1] == "log"
        }
        if not acknowledged <= set(lines) or len(lines) != len(set(lines)):
            raise SafetyViolation("once", f"{sorted(acknowledged)} asked for, {lines} there")
        if count != len(lines):
            raise SafetyViolation("once", f"{len(lines)} lines, and the counter says {count}")


TestSmall = small(Sessions, examples=25, steps=30)
TestDeep = deep(Sessions, examples=60, steps=50)
