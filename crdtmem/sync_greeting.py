"""Meeting a peer: whether it is fit to talk to, and which of two streams stays.

Problem: a stream may lead to another cluster, to a program of another age, to a
copy of ourselves, or to a peer that we already talk to.

Idea: both sides introduce themselves at once, and each judges the other by the
same rules, so that both come to the same verdict without another message.

Two nodes that hold two histories of some third replica (which was copied) can never agree:
equal vectors would stand for different deltas. One of them begins again, under a new id,
from what its peers hold; what it alone held is set aside, to be rescued. It is whoever
holds less of that replica, and of two that hold as much the one whose last batch has the
higher hash: an order that is the same everywhere, so in the end one history is left.

Invariants: nothing of a peer is taken before its introduction passed; of two
streams between one pair of processes both ends keep the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crdtmem.effects import Alarm, Effect
from crdtmem.errors import ForkDetected, ProtocolMismatch, RemoteError, WrongCluster
from crdtmem.messages import Evicted, Hello
from crdtmem.sync_host import PROTOCOL_VERSIONS, SyncHost
from crdtmem.sync_session import Session

__all__ = [
    "DUPLICATE",
    "HISTORIES_DIFFER",
    "Belonging",
    "duplicate_stream",
    "fork_lost",
    "histories_differ",
    "judge",
    "keeps_older",
    "tell_evicted",
]

HISTORIES_DIFFER: Final = "histories_differ"
"""In ``details["reason"]`` of the error with which two part that hold two histories of a third."""

DUPLICATE: Final = "duplicate_stream"
"""In ``details["reason"]`` of the error that closes the second stream to a peer."""


def judge(host: SyncHost, hello: Hello, mine: Hello) -> tuple[RemoteError | None, list[Effect]]:
    """Return why a peer cannot be talked to (``None`` if it can), and what else to do."""
    if hello.cluster != mine.cluster:
        return _wrong_cluster(f"{hello.cluster!r}", f"{mine.cluster!r}"), []
    if _is_of_another(host, hello):
        return _other_founder(host, hello), []
    lowest, highest = PROTOCOL_VERSIONS
    if min(highest, hello.versions[1]) < max(lowest, hello.versions[0]):
        return ProtocolMismatch(
            f"the peer speaks versions {hello.versions[0]} to {hello.versions[1]} of the "
            f"protocol, this node {lowest} to {highest}",
            hint="upgrade the older of the two",
        ), []
    if hello.replica == host.replica_id:
        verdict = _forked(host, hello)
        if verdict[0] is not None:
            # Of two that share our id the one that knows less of it is the copy.
            return verdict
        reason = f"another node ({hello.node!r}) runs under our replica id"
        effects: list[Effect] = [
            Alarm("clone", reason, {"replica": hello.replica, "address": hello.address})
        ]
        if _is_lesser_copy(mine, hello):
            last = mine.vector.get(mine.replica, 0)
            effects += host.identity_questioned(hello.replica, last, "as much of ours as we have")
        return ForkDetected(
            f"both ends are replica {hello.replica:016x}",
            hint="one is a copy of the other's store, or a node configured as its own peer",
        ), effects
    return _forked(host, hello)


def _is_lesser_copy(mine: Hello, theirs: Hello) -> bool:
    """Of two with one id and one history of it, tell whether we are the one to take another.

    Nobody else can tell them apart, so both would get half of what is sent to either. It is
    whoever knows less in all; a node that met itself, by name and address, never does.
    """
    if (mine.node, mine.address) == (theirs.node, theirs.address):
        return False
    ours, others = (
        (sum(hello.vector.values()), hello.boot, hello.node, hello.address)
        for hello in (mine, theirs)
    )
    return ours < others


def _is_of_another(host: SyncHost, hello: Hello) -> bool:
    """Tell whether a peer belongs to a cluster that is not ours, and cannot become ours.

    A cluster that was founded anew, from a backup, holds what its predecessor's founder
    wrote. A store restored from another backup names that predecessor, but is no member
    of it any more: it has a former id, and has written nothing under its own.
    """
    mine, theirs = host.cluster_id, hello.cluster_id
    if not mine or not theirs or mine == theirs:
        return False
    if host.newcomer:
        return mine not in hello.vector and theirs not in host.state.vector
    is_restored = bool(hello.predecessor) and not hello.vector.get(hello.replica, 0)
    return not is_restored or theirs not in host.state.vector


def _other_founder(host: SyncHost, hello: Hello) -> WrongCluster:
    theirs, ours = f"{hello.cluster_id:016x}", f"{host.cluster_id:016x}"
    return _wrong_cluster(f"{hello.cluster!r} founded by {theirs}", f"by {ours}")


class Belonging:
    """Which cluster is ours, as it shows, and who turns out to belong to another.

    A newcomer may meet two clusters before it belongs to either; without this it
    would merge them.
    """

    def __init__(self, host: SyncHost) -> None:
        self._host = host
        self._known: tuple[int, bool] | None = None

    def strangers(self, sessions: Mapping[Any, Session]) -> list[tuple[Session, RemoteError]]:
        """Return the sessions to be closed, and why, if what is known has changed."""
        host = self._host
        known = (host.cluster_id, host.newcomer)
        if known == self._known:
            return []
        self._known = known
        return [
            (session, _other_founder(host, session.hello))
            for session in sessions.values()
            if session.hello is not None and _is_of_another(host, session.hello)
        ]


def _wrong_cluster(theirs: str, ours: str) -> WrongCluster:
    return WrongCluster(
        f"the peer belongs to the cluster {theirs}, this node to {ours}",
        hint="check the cluster's name and the addresses of the peers",
    )


def _forked(host: SyncHost, hello: Hello) -> tuple[RemoteError | None, list[Effect]]:
    """Compare what both hold: a longer or other history of ours means that we are the copy.

    Another history of a third replica cannot be joined to ours either: one of the two nodes
    has to begin again from the other's. Both find the same one by the same comparison.
    """
    own = host.replica_id
    effects: list[Effect] = []
    forks: list[tuple[int, bool]] = []
    for replica, last in sorted(hello.vector.items()):
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
            if replica != hello.replica:
                # Whose id it is finds out by itself, and goes on under another.
                assert other_hash is not None
                forks.append((replica, other_hash < tip[1]))
        elif last > tip[0] and replica in host.fenced and replica != hello.replica:
            # Refused from then on, what follows our history included: it has to be fetched anew.
            forks.append((replica, True))
    if not forks:
        return None, effects
    replica, yields = forks[0]
    yields = host.yields_to(hello.replica, yields)
    if not yields:
        return None, effects
    return fork_lost(host, hello.replica, replica, effects)


def fork_lost(
    host: SyncHost, peer: int, replica: int, effects: list[Effect]
) -> tuple[RemoteError, list[Effect]]:
    """Begin again because of a third replica's histories; returns why the stream ends, too."""
    return histories_differ(replica), [*effects, *host.fork_lost(replica, peer)]


def histories_differ(replica: int = 0) -> RemoteError:
    """Return the error with which two part that hold two histories of a third; 0 for some."""
    return ForkDetected(
        f"replica {replica:016x} has two histories, and each end of this stream holds another"
        if replica
        else "some replica has two histories, and each end of this stream holds another",
        hint="none needed: one of the two begins again; see 'crdtmem rescue' for what it held",
        reason=HISTORIES_DIFFER,
    )


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


def tell_evicted(host: SyncHost, session: Session) -> list[Effect]:
    """Tell a peer, once, that its eviction is final, if it is.

    Its own promises may keep it from joining what would tell it.
    """
    cut = host.eviction_cut(session.replica)
    if cut is None or session.evicted:
        return []
    session.evicted = True
    return [session.send(Evicted(cut))]
