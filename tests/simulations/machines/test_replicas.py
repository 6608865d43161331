"""Two to four machines, every datatype, and whatever happens to machines.

Problem: the schedules of the laws deliver batches by hand; what lies between (queues,
flights, credit, transfers, checkpoints, recoveries) is where replication breaks.

Idea: the rules are what people and nature do to a cluster. Clients, network, machines,
faults and checkers are the simulator's, and the machines run production code. Sizes are
tiny, so that logs are cut, snapshots sent and credit used up within a few steps. At the
end all is healed, must converge, and is compared.

Invariants: see ``cluster``. A restored disk image that nobody can tell from the real one
may fork its own history; then an alarm must say so, and only safety is asked for.
"""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from simulations.faults import FAULTS
from simulations.operators import cut_log
from tests.simulations.machines.cluster import TINY, Cluster
from tests.simulations.machines.harm import MACHINES, Processes
from tests.simulations.machines.operations import ROWS, SPACES, Row
from tests.simulations.machines.profiles import deep, small

CLIENTS = st.integers(0, 4)
MOMENTS_S = st.sampled_from([0.0005, 0.003, 0.02, 0.1, 0.1, 0.5, 3.0, 12.0])
RANDOMS = st.randoms(use_true_random=False)
STANDS_ON = st.sampled_from(["nothing", "nothing", "observe", "expect", "remembered", "both"])
_STANDING: dict[str, dict[str, bool]] = {
    "nothing": {},
    "observe": {"observe": True},
    "expect": {"expect": True},
    "remembered": {"observe": True, "remembered": True},
    "both": {"expect": True, "remembered": True},
}
# Who there is changes in the membership machine; here it is what a disk or a link does.
_STRIKES = sorted(name for name, fault in FAULTS.items() if name not in ("join", "clone", "evict"))


class Replicas(Processes):
    """See the module."""

    @initialize(
        seed=st.integers(0, 1 << 16),
        size=st.integers(2, 4),
        linger_us=st.sampled_from([0, 0, 5_000]),
        roomy=st.booleans(),
    )
    def begin(self, seed: int, size: int, linger_us: int, roomy: bool) -> None:
        config = {"linger_us": linger_us} | ({} if roomy else dict(TINY))
        self.cluster = Cluster(seed, size, config)
        self.copied = False

    # ------------------------------------------------------------------ people

    @rule(
        client=CLIENTS,
        index=MACHINES,
        rows=st.lists(ROWS, min_size=1, max_size=3),
        stands_on=STANDS_ON,
        durability=st.sampled_from(["local", "local", "majority", "all"]),
        trust=st.sampled_from([0, 0, 1]),
    )
    def write(
        self, client: int, index: int, rows: list[Row], stands_on: str, durability: str, trust: int
    ) -> None:
        self.cluster.ask(
            client,
            index,
            "write",
            operations=rows,
            durability=durability,
            trust=trust,
            retries=1,
            **_STANDING[stands_on],
        )

    @rule(client=CLIENTS, index=MACHINES, row=ROWS, times=st.integers(3, 15))
    def write_much(self, client: int, index: int, row: Row, times: int) -> None:
        """So much that logs are cut and transfers begin."""
        for _ in range(times):
            self.cluster.ask(client, index, "write", operations=[row], session=False)
            self.cluster.run(0.01)

    @rule(client=CLIENTS, index=MACHINES, row=ROWS)
    def read(self, client: int, index: int, row: Row) -> None:
        self.cluster.ask(client, index, "read", space=row[0], datatype=row[1], key=row[2])

    @rule(client=CLIENTS, index=MACHINES, to=MACHINES, amount=st.integers(0, 4))
    def transfer(self, client: int, index: int, to: int, amount: int) -> None:
        self.cluster.ask(client, index, "transfer", space=SPACES[0], key="k", amount=amount, to=to)

    @rule(client=CLIENTS, index=MACHINES, position=st.integers(0, 9), erase=st.integers(0, 2))
    def edit(self, client: int, index: int, position: int, erase: int) -> None:
        self.cluster.ask(
            client,
            index,
            "edit",
            space=SPACES[0],
            key="k",
            position=position,
            insert="ab",
            delete=erase,
        )

    @rule(
        client=CLIENTS,
        index=MACHINES,
        resolver=st.sampled_from(["latest", "keep_all", "maximum", "majority", "manual"]),
        trust_ordered=st.booleans(),
    )
    def policy(self, client: int, index: int, resolver: str, trust_ordered: bool) -> None:
        self.cluster.ask(
            client,
            index,
            "policy",
            space=SPACES[1],
            resolver=resolver,
            trust_ordered=trust_ordered,
        )

    # ------------------------------------------------------------------ time and network

    @rule(seconds=MOMENTS_S)
    def wait(self, seconds: float) -> None:
        self.cluster.run(seconds)

    @rule(here=MACHINES, there=MACHINES, one_way=st.booleans())
    def cut(self, here: int, there: int, one_way: bool) -> None:
        names = [self.cluster.machine(index).name for index in (here, there)]
        self.cluster.world.network.cut(names[:1], names[1:], one_way=one_way)

    # ------------------------------------------------------------------ machines

    @rule(index=MACHINES)
    def stop(self, index: int) -> None:
        self.cluster.machine(index).stop()

    @rule(index=MACHINES)
    def pause_or_resume(self, index: int) -> None:
        machine = self.cluster.machine(index)
        if machine.paused:
            machine.resume()
        else:
            machine.pause()

    @rule(index=MACHINES)
    def cut_log(self, index: int) -> None:
        machine = self.cluster.machine(index)
        if not machine.paused:
            cut_log(machine)

    @rule(name=st.sampled_from(_STRIKES), random=RANDOMS)
    def strike(self, name: str, random: Random) -> None:
        """Anything that the simulator knows to do to a cluster without changing who is in it."""
        self.cluster.strike(name, random)

    @rule(index=MACHINES)
    def back_up(self, index: int) -> None:
        machine = self.cluster.machine(index)
        if len(machine.device.backups) < 3:
            machine.device.back_up()

    @precondition(lambda self: any(m.device.backups for m in self.cluster.world.machines.values()))
    @rule(index=MACHINES, pick=st.integers(0, 3), whole=st.booleans())
    def restore(self, index: int, pick: int, whole: bool) -> None:
        self.copied |= self.cluster.restore(self.cluster.machine(index), pick, whole=whole)

    # ------------------------------------------------------------------ the end

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        cluster: Any = self.cluster
        if cluster.history.forked and self.copied:
            cluster.run(30.0)
            return
        cluster.settle()


TestSmall = small(Replicas, examples=25, steps=25)
TestDeep = deep(Replicas, examples=60, steps=50)
