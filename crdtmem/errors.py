"""One tree of errors: each says what happened, what state is left, and what to do.

Problem: a caller that catches an error must know, without reading our code,
whether the write took effect, whether to retry, and what to change.

Idea: the tree is split by *whose move it is*. A ``LocalError`` is the
caller's: nothing was changed. A ``RemoteError`` is a peer's or a client's
fault: the frame is refused and this replica's state is untouched. A
``StoreError`` is the disk's: acknowledgements have stopped. ``ReplicaHalted``
is the protocol's: this replica may no longer write under its id. A ``Defect`` is
this program's own: it has stopped rather than go on with a state that it distrusts.

::

    CrdtmemError
    ├── LocalError            nothing was changed; fix the call
    │   ├── InvalidValue      a value, key or field that cannot be stored
    │   ├── InvalidToken      a Context or Observed that does not parse
    │   ├── LimitExceeded     over a stated limit
    │   │   ├── QuotaExceeded a space holds what its policy allows; figures attached
    │   │   └── SiblingLimit  a blind write at the limit; siblings attached
    │   ├── ConditionFailed   a conditional write met newer siblings, attached
    │   ├── NotCovered        an Observed or Context not joined before the deadline
    │   ├── InsufficientRights  a bounded counter without the rights to spend
    │   ├── UnknownName       a resolver, datatype, operation or setting
    │   ├── ConfigError       a setting that cannot be used
    │   ├── Overloaded        a queue is full; retry after a pause
    │   ├── DurabilityTimeout acknowledged here, not yet as widely as asked
    │   └── Closed            the memory, client or node is closed
    ├── RemoteError           a peer's or client's fault; state untouched
    │   ├── MalformedFrame    bytes that are no valid frame or batch
    │   ├── FrameTooLarge     a length over the limit, refused before allocation
    │   ├── ProtocolMismatch  no protocol version in common
    │   ├── WrongCluster      the peer belongs to another cluster
    │   └── ForkDetected      one dot, two contents: a clone or a restored copy
    ├── StoreError            acknowledgements have stopped
    │   ├── StoreLocked       another process holds the store
    │   ├── StoreReadOnly     the path cannot be written
    │   ├── StoreFull         no space left
    │   ├── StoreCorrupt      content that fails its checksum
    │   ├── StoreFailed       an fsync or commit that failed
    │   ├── Undecided         a commit that failed and cannot be read back yet
    │   ├── StoreVersion      a format newer than this program
    │   └── HistoryGap        the history asked for is no longer held
    ├── ReplicaHalted         evicted or fenced: writes refused, reads served
    ├── Defect                a fault of this program itself: it has stopped
    └── Unreachable           no node answers; what was asked may or may not have been done

The split by fault follows h11's Local/Remote pair; the hint follows httpx.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Closed",
    "ConditionFailed",
    "ConfigError",
    "CrdtmemError",
    "Defect",
    "DurabilityTimeout",
    "ForkDetected",
    "FrameTooLarge",
    "HistoryGap",
    "InsufficientRights",
    "InvalidToken",
    "InvalidValue",
    "LimitExceeded",
    "LocalError",
    "MalformedFrame",
    "NotCovered",
    "Overloaded",
    "ProtocolMismatch",
    "QuotaExceeded",
    "RemoteError",
    "ReplicaHalted",
    "SiblingLimit",
    "StoreCorrupt",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "StoreLocked",
    "StoreReadOnly",
    "StoreVersion",
    "Undecided",
    "UnknownName",
    "Unreachable",
    "WrongCluster",
    "error_from_code",
]


class CrdtmemError(Exception):
    """The root. ``code`` is stable and machine-readable; ``hint`` says what to do.

    ``details`` carries whatever a program needs to act (siblings, a limit, a
    resume point), as plain values that can cross a socket.
    """

    code = "error"
    state_left = "unknown"

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class LocalError(CrdtmemError):
    """The caller's misuse or bad luck. Nothing was changed."""

    code = "local"
    state_left = "nothing was changed"


class InvalidValue(LocalError):
    """A value, key, field or argument of a type or shape that cannot be stored."""

    code = "invalid_value"


class InvalidToken(LocalError):
    """A ``Context`` or ``Observed`` token that does not parse."""

    code = "invalid_token"


class LimitExceeded(LocalError):
    """Something is larger than its stated limit."""

    code = "limit_exceeded"


class SiblingLimit(LimitExceeded):
    """A blind write at the sibling limit; ``details["siblings"]`` holds them."""

    code = "sibling_limit"


class QuotaExceeded(LimitExceeded):
    """A write that would take a space beyond its quota; ``details`` hold the figures.

    They are ``space``, ``quota`` (the setting's name), ``limit``, ``held`` now, and
    how many it would be ``after`` the write.
    """

    code = "quota_exceeded"


class ConditionFailed(LocalError):
    """A conditional write met other siblings; ``details["siblings"]`` holds them."""

    code = "condition_failed"


class NotCovered(LocalError):
    """An ``Observed`` or ``Context`` names dots that were not joined in time."""

    code = "not_covered"


class InsufficientRights(LocalError):
    """A bounded counter's replica holds fewer rights than the operation needs."""

    code = "insufficient_rights"


class UnknownName(LocalError):
    """No resolver, datatype, operation or setting has this name."""

    code = "unknown_name"


class ConfigError(LocalError):
    """A setting that is missing, malformed or contradicts another."""

    code = "config"


class Overloaded(LocalError):
    """A bounded queue is full. Nothing was taken; retry after a pause."""

    code = "overloaded"


class DurabilityTimeout(LocalError):
    """The write is durable here, but not yet as widely as asked. Nothing is undone."""

    code = "durability_timeout"
    state_left = "the write is durable in this region and keeps spreading"


class Closed(LocalError):
    """The memory, client or node has been closed."""

    code = "closed"


class RemoteError(CrdtmemError):
    """A peer's or client's fault. Its frame is refused; our state is untouched."""

    code = "remote"
    state_left = "the frame was refused; state is untouched"


class MalformedFrame(RemoteError):
    """Bytes that are no valid frame, batch or message."""

    code = "malformed_frame"


class FrameTooLarge(RemoteError):
    """A declared length over the limit, refused before anything was allocated."""

    code = "frame_too_large"


class ProtocolMismatch(RemoteError):
    """The two sides have no protocol version in common."""

    code = "protocol_mismatch"


class WrongCluster(RemoteError):
    """The peer names another cluster."""

    code = "wrong_cluster"


class ForkDetected(RemoteError):
    """A second batch with the same dots and other content: a clone or old backup."""

    code = "fork_detected"


class StoreError(CrdtmemError):
    """Durability failed. What was acknowledged is kept; new writes are refused."""

    code = "store"
    state_left = "acknowledged writes are kept; new writes are refused until it is mended"


class StoreLocked(StoreError):
    """Another process holds this store."""

    code = "store_locked"


class StoreReadOnly(StoreError):
    """The path cannot be written."""

    code = "store_read_only"


class StoreFull(StoreError):
    """No space is left on the device."""

    code = "store_full"


class StoreCorrupt(StoreError):
    """Stored content fails its checksum."""

    code = "store_corrupt"


class StoreFailed(StoreError):
    """A commit or fsync failed or was ambiguous; the store must be reopened."""

    code = "store_failed"


class Undecided(StoreError):
    """A commit failed, and until the deadline the store could not be read back.

    The write may have been done: repeat it with the same ``operation_id``.
    """

    code = "store_undecided"
    state_left = "what was acknowledged is kept; this write may or may not have been done"


class StoreVersion(StoreError):
    """The store was written by a newer format than this program reads."""

    code = "store_version"


class HistoryGap(StoreError):
    """The history asked for is no longer held; ``details["resume"]`` says from where it is."""

    code = "history_gap"
    state_left = "nothing was changed; older history was cut by the retention policy"


class ReplicaHalted(CrdtmemError):
    """This replica may no longer write under its id: evicted, fenced or forked."""

    code = "replica_halted"
    state_left = "reads are served; writes are refused"


class Defect(CrdtmemError):
    """This program found a fault of its own, and stopped before it could do harm.

    What was acknowledged is durable; start again from the store. A write that was
    under way may have been done: repeat it with the same ``operation_id``.
    """

    code = "defect"
    state_left = "what was acknowledged is kept; what was under way may or may not have been done"


class Unreachable(CrdtmemError):
    """No node answers, or it did not in time.

    A write that was under way may have been done: repeat it with the same
    ``operation_id`` (``details["operation_id"]``), and it counts once.
    """

    code = "unreachable"
    state_left = "what was asked may or may not have been done"


def _every(root: type[CrdtmemError]) -> dict[str, type[CrdtmemError]]:
    table = {root.code: root}
    for child in root.__subclasses__():
        table.update(_every(child))
    return table


def error_from_code(code: str, message: str, hint: str, details: dict[str, Any]) -> CrdtmemError:
    """Rebuild the error that a node sent as ``(code, message, hint, details)``."""
    return _every(CrdtmemError).get(code, CrdtmemError)(message, hint=hint, **details)
