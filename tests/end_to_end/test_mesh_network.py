"""Real members on a real network that breaks: namespaces, a bridge, and rules of nft.

Windows are those of ``talkers.FAST``: probes every 200 ms, the dead told for 2 s, sought every
1 s. Stated bounds, on a machine that may be busy with other tests:

- after healing, all members believe the same of all within ``HEALED_S``: three turns of seeking,
  each 0.5 to 1.5 s apart, one exchange, and as much again for slow processes;
- while they heal, no member sends more than ``HEALING_BYTES_PER_S`` in any second, Ethernet's
  headers included.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.capabilities import needs
from tests.end_to_end.namespaces import Meter, Network
from tests.end_to_end.talkers import FAST, BareMember
from tests.waiting import wait_until

needs("namespaces", "nft")

HEALED_S = 10.0
HEALING_BYTES_PER_S = 16 * 1024
DETECTED_S = 12.0
"""Within which a dead member is called so: five times what an idle machine needs."""
WINDOW_S = 2.0
"""How long the dead are told of their death, in ``FAST``."""
KEY = bytes(range(32)).hex()

pytestmark = pytest.mark.timeout(180)


class Cluster:
    """Members on a network, one per place."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.members: list[BareMember] = []

    def start(self, index: int) -> BareMember:
        """Start (again) the member of that place; its identity lies in the folder."""
        place = self.network.places[index]
        first = f"{self.network.places[0].host}:7946"
        name = f"m{index}"
        return BareMember(
            name, f"{place.host}:7946",
            "--key", KEY, "--state", str(self.folder / f"{name}.state"),
            join=[] if index == 0 else [first], prefix=place.prefix, constants=FAST,
        )  # fmt: skip

    def start_all(self) -> None:
        """Start everybody, and wait until they are one."""
        self.members = [self.start(index) for index in range(len(self.network.places))]
        for member in self.members:
            member.await_ready()
        wait_until(self.whole, "cluster that is whole", timeout_s=60)

    def close(self) -> None:
        for member in self.members:
            member.end()

    def await_deaths(self, seer: BareMember, *names: str) -> None:
        """Wait until one member calls some others dead."""
        wait_until(
            lambda: all(seer.state(name) == "dead" for name in names),
            f"death of {' and '.join(names)} at {seer.name}",
            timeout_s=DETECTED_S,
        )

    def whole(self) -> bool:
        """Whether all believe the same of all, and that all are alive."""
        words: dict[str, set[tuple[str, int, int]]] = {}
        for member in self.members:
            beliefs = member.beliefs()
            if len(beliefs) != len(self.members) - 1:
                return False
            for name, word in beliefs.items():
                words.setdefault(name, set()).add(word)
        return all(len(said) == 1 and next(iter(said))[0] == "alive" for said in words.values())

    def rounds(self) -> int:
        """Return how many probes the member that made the fewest has made."""
        return min(int(member.counters()["probes"]) for member in self.members)

    def lasts(self, rounds: int) -> None:
        """Wait until everybody has made so many more probes."""
        target = self.rounds() + rounds
        wait_until(lambda: self.rounds() >= target, f"{rounds} more rounds", timeout_s=90)

    def heals(self) -> None:
        """Take away the faults, and wait until all are one again, within the stated bound."""
        meter = Meter(self.network)
        self.network.heal()

        def healed() -> bool:
            meter.look()
            return self.whole()

        wait_until(healed, "cluster that is whole again", timeout_s=HEALED_S)
        meter.look(last=True)
        assert meter.most < HEALING_BYTES_PER_S


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Callable[[int], Cluster]]:
    """Return a function that founds a cluster of so many members."""
    with contextlib.ExitStack() as stack:

        def make(count: int) -> Cluster:
            cluster = Cluster(stack.enter_context(Network(count)), tmp_path)
            stack.callback(cluster.close)
            cluster.start_all()
            return cluster

        yield make


def deaths(cluster: Cluster, since_s: float) -> dict[str, list[str]]:
    """Return who called whom dead since then."""
    said = {member.name: member.deaths(since_s) for member in cluster.members}
    return {name: dead for name, dead in said.items() if dead}


def test_a_split_heals(found: Callable[[int], Cluster]) -> None:
    cluster = found(4)
    places, members = cluster.network.places, cluster.members
    cluster.network.split(places[:2], places[2:])
    for seer, others in ((0, (2, 3)), (1, (2, 3)), (2, (0, 1)), (3, (0, 1))):
        cluster.await_deaths(members[seer], *(f"m{other}" for other in others))
    # Each half is whole in itself.
    assert members[0].state("m1") == members[3].state("m2") == "alive"
    cluster.heals()


@pytest.mark.slow
def test_after_ten_times_the_window_in_which_the_dead_are_told(
    found: Callable[[int], Cluster],
) -> None:
    cluster = found(4)
    places = cluster.network.places
    cluster.network.split(places[:1], places[1:])
    for member in cluster.members[1:]:
        cluster.await_deaths(member, "m0")
    cluster.await_deaths(cluster.members[0], "m1", "m2", "m3")
    over_s = time.monotonic() + 10 * WINDOW_S
    wait_until(lambda: time.monotonic() > over_s, "end of the cut", timeout_s=30)
    cluster.heals()


@pytest.mark.slow
def test_one_way_cuts_kill_nobody_while_others_can_relay(found: Callable[[int], Cluster]) -> None:
    cluster = found(4)
    places = cluster.network.places
    since_s = time.monotonic()
    # No answer of m1 reaches m0, nor a stream; nor of m3 to m2.
    cluster.network.deafen(places[0], [places[1]])
    cluster.network.deafen(places[2], [places[3]])
    cluster.lasts(60)
    assert deaths(cluster, since_s) == {}
    assert cluster.members[0].counters()["indirect_probes"] > 0
    cluster.heals()


@pytest.mark.slow
def test_a_loss_of_thirty_percent_kills_nobody(found: Callable[[int], Cluster]) -> None:
    cluster = found(4)
    since_s = time.monotonic()
    cluster.network.lose(30)
    cluster.lasts(60)
    assert deaths(cluster, since_s) == {}
    assert all(member.counters()["indirect_probes"] > 0 for member in cluster.members)
    cluster.heals()


@pytest.mark.slow
def test_whoever_is_deaf_to_datagrams_is_degraded_not_dead(
    found: Callable[[int], Cluster],
) -> None:
    cluster = found(3)
    places = cluster.network.places
    since_s = time.monotonic()
    cluster.network.deafen(places[0], places[1:], protocol="udp")
    wait_until(
        lambda: all("degraded" in member.warnings() for member in cluster.members),
        "warning of all that datagrams are blocked",
        timeout_s=60,
    )
    cluster.lasts(40)
    assert deaths(cluster, since_s) == {}
    cluster.heals()


@pytest.mark.slow
def test_a_paused_member_accuses_nobody_and_comes_back(found: Callable[[int], Cluster]) -> None:
    cluster = found(4)
    paused, others = cluster.members[1], [cluster.members[index] for index in (0, 2, 3)]
    since_s = time.monotonic()
    paused.send(signal.SIGSTOP)
    for member in others:
        cluster.await_deaths(member, "m1")
    paused.send(signal.SIGCONT)
    cluster.heals()
    assert deaths(cluster, since_s) == {member.name: ["m1"] for member in others}
    # In the same life: it has refuted, and was not started again.
    assert others[0].beliefs()["m1"][1] == 1


@pytest.mark.slow
def test_a_killed_member_is_found_dead_and_comes_back_in_a_new_life(
    found: Callable[[int], Cluster],
) -> None:
    cluster = found(4)
    others = [cluster.members[index] for index in (0, 1, 2)]
    since_s = time.monotonic()
    cluster.members[3].end(signal.SIGKILL)
    for member in others:
        cluster.await_deaths(member, "m3")
    assert deaths(cluster, since_s) == {member.name: ["m3"] for member in others}
    cluster.members[3] = cluster.start(3)
    cluster.members[3].await_ready()
    cluster.heals()
    assert others[0].beliefs()["m3"][1] == 2
