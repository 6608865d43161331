"""Members come, are given up, come back, and rescue what they wrote in the dark.

Problem: who is a member decides what is stable, and so what may be collected; whoever is
wrongly missed brings back what was removed, and whoever is waited for in vain stops
all collection.

Idea: machines join, are evicted (by several at once, forced or not), return under new
names with what they had set aside, lose their disks and are copied, while clients go on
appending numbered lines to one log, and adding and removing in places that leave removals
behind. At the end everything heals, all evictions are carried through as the manual says,
everybody rescues what is theirs, and the log is read.

Invariants: *each acknowledged line is in the log exactly once*, whatever became of the node
that took it, copied stores or not; a line that was never acknowledged is there at most once.
"""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from simulations.errors import SafetyViolation
from simulations.faults import FAULTS
from simulations.operators import evict
from tests.simulations.machines.cluster import TINY, Cluster
from tests.simulations.machines.harm import MACHINES, Processes
from tests.simulations.machines.operations import ROWS, Row
from tests.simulations.machines.profiles import deep, small
from tests.simulations.machines.rescuers import lost_on, rescue_on

CLIENTS = st.integers(0, 3)
MOMENTS_S = st.sampled_from([0.003, 0.03, 0.1, 0.3, 1.0, 6.0, 15.0])
RANDOMS = st.randoms(use_true_random=False)
AUDIT = ("audit",)

_REMOVING = st.sampled_from(
    [
        ("set_remove_wins", "add", ["a"]),
        ("set_remove_wins", "remove", ["a"]),
        ("set_remove_wins", "clear", []),
        ("flag_disable_wins", "enable", []),
        ("flag_disable_wins", "disable", []),
        ("counter", "increment", [2]),
        ("counter", "reset", []),
        ("bounded_counter", "mint", [3]),
        ("bounded_counter", "consume", [1]),
    ]
)


class Members(Processes):
    """See the module."""

    @initialize(seed=st.integers(0, 1 << 16), size=st.integers(3, 5), tiny=st.booleans())
    def begin(self, seed: int, size: int, tiny: bool) -> None:
        self.cluster = Cluster(seed, size, TINY if tiny else {})
        self.lines = 0

    # ------------------------------------------------------------------ clients

    @rule(client=CLIENTS, index=MACHINES, retries=st.integers(0, 2))
    def append(self, client: int, index: int, retries: int) -> None:
        self.lines += 1
        row = [list(AUDIT), "log", "lines", "append", [self.lines]]
        self.cluster.ask(client, index, "write", operations=[row], retries=retries, timeout_ms=500)

    @rule(client=CLIENTS, index=MACHINES, what=_REMOVING)
    def remove(self, client: int, index: int, what: tuple[str, str, list[str]]) -> None:
        datatype, name, arguments = what
        row = [["work"], datatype, "k", name, arguments]
        self.cluster.ask(client, index, "write", operations=[row], session=False)

    @rule(client=CLIENTS, index=MACHINES, rows=st.lists(ROWS, min_size=1, max_size=3))
    def write(self, client: int, index: int, rows: list[Row]) -> None:
        """Anything at all, with a line in the log."""
        self.lines += 1
        row = [list(AUDIT), "log", "lines", "append", [self.lines]]
        self.cluster.ask(client, index, "write", operations=[*rows, row], timeout_ms=500)

    # ------------------------------------------------------------------ members

    @rule(by=MACHINES, victim=MACHINES, forced=st.sampled_from([False, False, True]))
    def evict(self, by: int, victim: int, forced: bool) -> None:
        # Who forces on both sides of a partition gets two clusters: force is used on one node.
        operator = self.cluster.machine(0 if forced else by)
        other = self.cluster.machine(victim)
        view = self.cluster.history.views.get(other.name)
        if operator.up and not operator.paused and operator is not other and view is not None:
            evict(operator, view.replica, forced=forced)

    @rule(name=st.sampled_from(["join", "lost_disk", "evict"]), random=RANDOMS)
    def change(self, name: str, random: Random) -> None:
        self.cluster.strike(name, random)

    @rule(index=MACHINES)
    def clone(self, index: int) -> None:
        """A copy that can tell that it is one; a hidden one forks its id: another story."""
        name = self.cluster.machine(index).name
        FAULTS["clone"].apply(self.cluster.world, {"machine": name, "hidden": False})

    @rule(index=MACHINES)
    def rescue(self, index: int) -> None:
        rescue_on(self.cluster.machine(index))

    # ------------------------------------------------------------------ what goes wrong

    @rule(seconds=MOMENTS_S)
    def wait(self, seconds: float) -> None:
        self.cluster.run(seconds)

    @rule(here=st.sets(MACHINES, min_size=1, max_size=3), one_way=st.booleans())
    def part(self, here: set[int], one_way: bool) -> None:
        names = list(self.cluster.world.machines)
        group = [names[index % len(names)] for index in sorted(here)]
        others = [name for name in names if name not in group]
        self.cluster.world.network.cut(group, others, one_way=one_way)

    @rule(name=st.sampled_from(["absence", "pause", "failing_disk", "skew"]), random=RANDOMS)
    def strike(self, name: str, random: Random) -> None:
        self.cluster.strike(name, random)

    # ------------------------------------------------------------------ the end

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.settle()
        refused: list[str] = []
        for _ in range(3):
            refused = [word for m in list(cluster.world.up()) for word in rescue_on(m)]
            cluster.run(10.0)
            cluster.world.run_until(cluster.is_quiet, "rest after a rescue", within_s=60)
        cluster.compare(list(cluster.world.up()))
        self.read_the_log(refused)

    def read_the_log(self, refused: list[str]) -> None:
        cluster = self.cluster
        machine = next(cluster.world.up())
        lines = [e[1] for e in cluster.read(machine, AUDIT, "log", "lines").entries]
        shown = cluster.read(machine, AUDIT, "log", "lines").value
        aside = {m.name: lost_on(m) for m in cluster.world.up()}
        acknowledged = set()
        for call in cluster.history.written_calls():
            for row in call.step.arguments["operations"] if call.step.kind == "write" else ():
                if row[0] == list(AUDIT):
                    acknowledged.add(row[4][0])
        lost = sorted(acknowledged - set(lines))
        if lost:
            raise SafetyViolation("acknowledged", f"lines {lost} are gone: {refused}; {aside}")
        if len(set(shown)) < len(shown):
            raise SafetyViolation("once", f"a line is there twice: {shown}")


assert {"join", "clone", "lost_disk", "evict", "absence", "pause", "failing_disk"} <= set(FAULTS)

TestSmall = small(Members, examples=12, steps=25)
TestDeep = deep(Members, examples=40, steps=40)
