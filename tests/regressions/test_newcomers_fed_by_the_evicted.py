"""A newcomer that its sponsor's promise bound was fed by the very one that was being evicted.

Found by the membership machine: a survivor promised to take nothing more of a member, then
admitted a newcomer; the newcomer listened to the member that was given up, held more of it than
those who had promised may ever take, and became a member all the same. Two groups could then
never hear each other's promises, and no operator could end it.
"""

from __future__ import annotations

from tests.epoch.harness import Cluster, Node, act


def _fed_by_the_evicted() -> tuple[Cluster, Node]:
    """Return a cluster that gives c up, and a newcomer that a admitted and that c has fed."""
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    cluster.sync()
    c.write(act("log", "l", "append", "unheard"))
    a.evict(c)
    newcomer = cluster.node("d")
    a.admit(newcomer)
    # The newcomer listens to c, before c hears of all that and after.
    newcomer.sponsor = c
    newcomer.pull(c)
    c.pull(a)
    newcomer.pull(c)
    return cluster, newcomer


def test_a_newcomer_holds_no_more_of_the_evicted_than_who_promised_before_it() -> None:
    cluster, newcomer = _fed_by_the_evicted()
    c = cluster["c"]
    assert newcomer.epoch.is_member
    assert newcomer.vector[c.id] > cluster["a"].vector.get(c.id, 0)
    allowed = cluster["a"].vector.get(c.id, 0)
    beyond = newcomer.evictions.beyond_at_birth(newcomer.epoch, newcomer.vector)
    assert beyond == {c.id: allowed}


def test_who_held_no_more_may_write() -> None:
    cluster = Cluster("abc")
    a, c = cluster["a"], cluster["c"]
    c.write(act("log", "l", "append", "heard"))
    cluster.sync()
    a.evict(c)
    newcomer = cluster.node("d")
    a.admit(newcomer)
    newcomer.pull(a)
    assert newcomer.epoch.is_member
    assert not newcomer.evictions.beyond_at_birth(newcomer.epoch, newcomer.vector)
