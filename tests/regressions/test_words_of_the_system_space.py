"""What a cluster says of itself was refused where several had said it at once.

Harm: two members on two sides of a partition proposed to give the same third one up. Their
two proposals stood beside each other, which was as many values as a place may hold, and so the
next one, by which an operator would have forced it, was refused without a word, each time. The
eviction stayed undecided, and who was given up in part wrote on in the dark. Found by
the simulator, seed 9277.
"""

from __future__ import annotations

from dataclasses import replace

from simulations.faults import clean_links
from simulations.operators import evict
from simulations.world import SMALL_LIMITS
from tests.simulations.ground import world_of
from tests.simulations.lives import Life

_CROWDED = replace(SMALL_LIMITS, siblings=2)


def test_a_third_proposal_counts_where_two_stand_already() -> None:
    world = world_of(5, limits=_CROWDED)
    # By then all know of each other what they had acknowledged.
    world.run(15)
    first, second, third, away, victim = world.machines.values()
    for machine in (away, victim):
        world.network.cut([machine.name], list(world.machines))
    world.network.cut([first.name], [second.name, third.name])
    world.network.cut([second.name], [third.name])
    replica = victim.engine.replica_id
    for machine in (first, second):
        assert evict(machine, replica) is None
    world.run(1)
    world.network.heal([first.name, second.name], [second.name, third.name])
    evictions = third.engine.membership.evictions
    # Undecided, for one that is to stay has not been heard.
    world.run_until(lambda: len(evictions.proposals) == 2, "both proposals", within_s=60)
    assert evict(third, replica, forced=True) is None
    world.run(5)
    assert [proposal.forced for proposal in evictions.proposals] == [True]
    clean_links(world)
    world.run_until(
        lambda: victim.engine.replica_id != replica and victim.replica.writable,
        "end of the eviction",
        within_s=120,
    )


def test_a_third_policy_settles_the_two_that_stand() -> None:
    life = Life(3, ["semantics"], limits=_CROWDED)
    names = list(life.world.machines)
    for name in names:
        life.world.network.cut([name], names)
    policy = {"space": ["s"], "trust_ordered": False}
    for number, resolver in enumerate(("latest", "keep_all")):
        assert life.do(number, ("policy", {**policy, "resolver": resolver}), number).outcome == "ok"
    clean_links(life.world)
    life.settle()
    assert life.do(2, ("policy", {**policy, "resolver": "maximum"}), 2).outcome == "ok"
