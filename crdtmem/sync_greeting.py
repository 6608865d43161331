"""Meeting a peer: whether it is fit to talk to, and which of two streams stays.

Problem: a stream may lead to another cluster, to a program of another age, to a
copy of ourselves, or to a peer that we already talk to.

Idea: both sides introduce themselves at once, and each judges the other by the
same rules, so that both come to the same verdict without another message.

Invariants: nothing of a peer is taken before its introduction passed; of two
streams between one pair of processes both ends keep the same one.
"""

from __future__ import annotations

from typing import Final

from crdtmem.effects import Alarm, Effect
from crdtmem.errors import ForkDetected, ProtocolMismatch, RemoteError, WrongCluster
from crdtmem.messages import Hello
from crdtmem.sync_host import PROTOCOL_VERSIONS, SyncHost
from crdtmem.sync_session import Session

__all__ = ["DUPLICATE", "duplicate_stream", "judge", "keeps_older"]

DUPLICATE: Final = "duplicate_stream"
"""In ``details["reason"]`` of the error that closes the second stream to a peer."""


def judge(host: SyncHost, hello: Hello, mine: Hello) -> tuple[RemoteError | None, list[Effect]]:
    """Return why a peer cannot be talked to (``None`` if it can), and what else to do."""
    if hello.cluster != mine.cluster:
        return _wrong_cluster(f"{hello.cluster!r}", f"{mine.cluster!r}"), []
    if hello.cluster_id and host.cluster_id and hello.cluster_id != host.cluster_id:
        theirs, ours = f"{hello.cluster_id:016x}", f"{host.cluster_id:016x}"
        return _wrong_cluster(f"{hello.cluster!r} founded by {theirs}", f"by {ours}"), []
    lowest, highest = PROTOCOL_VERSIONS
    if min(highest, hello.versions[1]) < max(lowest, hello.versions[0]):
        return ProtocolMismatch(
            f"the peer speaks versions {hello.versions[0]} to {hello.versions[1]} of the "
            f"protocol, this node {lowest} to {highest}",
            hint="upgrade the older of the two",
        ), []
    if hello.replica == host.replica_id:
        reason = f"another node ({hello.node!r}) runs under our replica id"
        alarm = Alarm("clone", reason, {"replica": hello.replica, "address": hello.address})
        return ForkDetected(
            f"both ends are replica {hello.replica:016x}",
            hint="one is a copy of the other's store, or a node configured as its own peer",
        ), [alarm]
    return _forked(host, hello)


def _wrong_cluster(theirs: str, ours: str) -> WrongCluster:
    return WrongCluster(
        f"the peer belongs to the cluster {theirs}, this node to {ours}",
        hint="check the cluster's name and the addresses of the peers",
    )


def _forked(host: SyncHost, hello: Hello) -> tuple[RemoteError | None, list[Effect]]:
    """Compare what both hold: a longer or other history of ours means that we are the copy."""
    own = host.replica_id
    effects: list[Effect] = []
    for replica, last in hello.vector.items():
        tip = host.tips.get(replica, (0, b""))
        other_hash = hello.hashes.get(replica)
        forked = tip[0] == last and other_hash is not None and other_hash != tip[1]
        if replica == own and (forked or last > tip[0]):
            reason = "another batch under our id" if forked else "more of ours than we have"
            error = ForkDetected(
                f"the peer holds {reason}, at sequence {last}",
                hint="this store is an old copy; it needs a new replica id",
            )
            return error, host.identity_questioned(hello.replica, last, reason)
        if forked:
            details = {"replica": replica, "sequence": last, "peer": hello.replica}
            words = f"replica {replica:016x} wrote two different batches at sequence {last}"
            effects.append(Alarm("fork", words, details))
    return None, effects


def keeps_older(older: Session, newer: Session, hello: Hello, own: int) -> bool:
    """Tell which of two streams to one replica stays.

    A peer that restarted has only the newer one. Streams that crossed are told
    apart by who opened them: the one of the higher replica id stays. Of two
    that the same side opened the older is a leftover.
    """
    if older.hello is not None and older.hello.boot != hello.boot:
        return False
    if older.initiator == newer.initiator:
        return False
    opener = own if older.initiator else hello.replica
    return opener == max(own, hello.replica)


def duplicate_stream(replica: int) -> RemoteError:
    """Return the error with which the stream that does not stay is closed."""
    return RemoteError(
        f"another stream to replica {replica:016x} stays open",
        hint="none needed: two nodes connected to each other at once",
        reason=DUPLICATE,
        replica=replica,
    )
