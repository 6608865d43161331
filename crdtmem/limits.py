"""The bounds of one node: every size that a peer, a client or a bug could let grow.

Problem: whatever is unbounded is, one day, what stops the fleet: a value that
no frame can carry, a place with ten thousand siblings, a peer that sends the
future before the past.

Idea: one flat record of plain integers, made once at the edge (from the
settings) and passed down, so that pure code needs neither files nor a
validation library. Bounds bind *local writes, at their origin*: a join never
refuses or drops what another replica accepted, or replicas with different
limits would diverge. Two bounds do meet bytes from outside: ``frame_bytes``,
checked before anything is allocated, and ``early_batches_per_peer``, beyond
which a batch is left unacknowledged and fetched again later. Neither changes
what is joined, only when.

Invariants: every bound is at least 1, and leaves room for those inside it: a
key and a value fit a batch, a batch fits a frame and the queue. A record that breaks this
cannot be made.

Sources: "put a limit on everything" is TigerBeetle's rule; the defaults are in
the Limits section of the design.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from crdtmem.errors import ConfigError

__all__ = ["DEFAULT_LIMITS", "FRAME_OVERHEAD_BYTES", "Limits"]

# What a frame, a batch header and its dependencies may add to a batch's body:
# a thousand replicas of at most 27 bytes each, with room to spare.
FRAME_OVERHEAD_BYTES: Final = 64 * 1024

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


def _bound(default: int, description: str) -> Any:
    """Declare one bound; the description is what ``crdtmem config --check`` prints."""
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node accepts. Each bound says its meaning, its unit and its trade-off."""

    key_bytes: int = _bound(
        _KIB,
        "Longest key, field or label of a space, in bytes of UTF-8. Keys are held in memory "
        "once per replica, so this bounds what a million keys can cost.",
    )
    value_bytes: int = _bound(
        _MIB,
        "Largest single value, encoded. A larger one would delay every batch behind it on the "
        "same stream; bulky payloads belong in an object store, by reference.",
    )
    batch_deltas: int = _bound(
        10_000,
        "Most deltas in one transaction or batch. A transaction becomes visible all at once, "
        "so this bounds how long a join may hold up readers.",
    )
    batch_bytes: int = _bound(
        4 * _MIB,
        "Most encoded bytes in one transaction or batch: one fsync, one checksum, one frame.",
    )
    siblings: int = _bound(
        64,
        "Most concurrent entries in one place before a blind local write is refused, with the "
        "siblings attached. Joins may exceed it; a write that observed them is always accepted.",
    )
    early_batches_per_peer: int = _bound(
        10_000,
        "Most batches of one peer that may wait for their causal predecessors. Those beyond it "
        "are dropped unacknowledged and asked for again: memory is bounded, nothing is lost.",
    )
    queue_transactions: int = _bound(
        100_000,
        "Most transactions that may wait to be written here, for their turn or for what they "
        "observed to arrive. A caller beyond it is told to retry; what is taken is answered.",
    )
    queue_bytes: int = _bound(
        256 * _MIB,
        "Most encoded bytes of those transactions. In memory they take a few times as much, "
        "until the disk has caught up.",
    )
    waiters: int = _bound(
        10_000,
        "Most readers that may wait for a context to arrive, and most writers for their write "
        "to be durable elsewhere. All of them are looked at whenever something arrives.",
    )
    members: int = _bound(
        1_000,
        "Most members of one epoch. Version vectors and stability cost in proportion.",
    )
    frame_bytes: int = _bound(
        8 * _MIB,
        "Largest frame on any stream, its length checked before it is allocated. It must hold "
        "a whole batch, and every node of a cluster should agree on it.",
    )

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"limits.{bound.name} is {value!r}",
                    hint="a limit is a whole number of at least 1",
                    settings=(f"limits.{bound.name}",),
                )
        self._require_room("batch_bytes", "key_bytes", "value_bytes")
        self._require_room("queue_bytes", "batch_bytes")
        self._require_room("frame_bytes", "batch_bytes", overhead_bytes=FRAME_OVERHEAD_BYTES)

    def _require_room(self, outer: str, *inner: str, overhead_bytes: int = 0) -> None:
        needed_bytes = sum(getattr(self, name) for name in inner) + overhead_bytes
        held_bytes = getattr(self, outer)
        if held_bytes < needed_bytes:
            raise ConfigError(
                f"limits.{outer} is {held_bytes}, too small for {' and '.join(inner)}, "
                f"which together take {needed_bytes}",
                hint=f"raise {outer} to at least {needed_bytes}, or lower {' or '.join(inner)}",
                settings=tuple(f"limits.{name}" for name in (outer, *inner)),
            )


DEFAULT_LIMITS: Final = Limits()
