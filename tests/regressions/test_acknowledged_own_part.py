"""What a member acknowledges counts only once its own deltas up to it are here.

Found by the simulator: a world with two evictions, seed 4 of ``evictions`` in
``tests/simulations/worlds``, by the checker of stability.
"""

from __future__ import annotations

from tests.sync.host import Cluster


def test_an_acknowledgement_names_own_batches_that_were_refused() -> None:
    """Harm: a member's own batch, sent before its acknowledgement, counted as part of neither.

    The receiver did not take the batch (it lay beyond a promise), and its sender never named
    it again. What it acknowledged next then counted at once, and what was concurrent with
    that batch was collected too soon.
    """
    cluster = Cluster()
    for replica in (1, 2, 3):
        cluster.node(replica)
    cluster.mesh()
    a, b, c = cluster.nodes
    for node in cluster.nodes:
        node.put(**{f"first{node.replica_id}": 1})
    cluster.settle()
    b.replica.inbox.set_cut(a.replica_id, b.state.vector[a.replica_id])
    a.put(beyond=1)
    cluster.pass_s(1)
    c.put(after=1)
    cluster.pass_s(1)
    known = b.known[a.replica_id]
    assert known[c.replica_id] == c.state.vector[c.replica_id]
    assert known[a.replica_id] == a.state.vector[a.replica_id]
