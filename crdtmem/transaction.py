"""Transactions: what a caller asks for, checked and encoded before it is queued.

Problem: a transaction must be refused whole or applied whole; the caller must
learn of a bad value at once and with nothing changed; and a hundred plain
writes must not cost a hundred trips through the datatypes' machinery.

Idea: a transaction is a list of steps. A ``PutRun`` is a column of plain
register writes in one space, checked and packed in bulk when it is sealed, so
that staging it later cannot fail. Everything else is an ``Operation`` on a
datatype, carried out when the transaction is staged, with an undo if it is
refused. Sealing takes private copies: what the caller does to a value
afterwards changes nothing.

Invariants: a sealed transaction is within the limits on keys, values, deltas
and bytes; its values are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from crdtmem.batch import SpaceName, pack_keys
from crdtmem.codec import MAX_DEPTH, SCALARS, check_label, freeze, pack
from crdtmem.crdt import DATATYPES, DATATYPES_BY_CODE
from crdtmem.entries import NO_METADATA, Metadata, ascending
from crdtmem.errors import InvalidValue, LimitExceeded, UnknownName
from crdtmem.limits import Limits

__all__ = [
    "CountRun",
    "Operation",
    "Options",
    "PutRun",
    "Transaction",
    "check_space",
    "check_value_size",
]

_PLAIN: Final = SCALARS - {float}
_STR_ONLY: Final = frozenset({str})
_INT_ONLY: Final = frozenset({int})
_SPACE_LABELS: Final = 8
_OPERATION_ID_BYTES: Final = 64
_TRUST_RANGE: Final = range(-(1 << 31), 1 << 31)
_TIME_RANGE: Final = range(1 << 62)
_UNCHECKED: Final = object()
_RESERVED_METADATA: Final = frozenset("aeit")
"""Short names that the transaction itself writes: author, expiry, operation id, trust."""

_RUN_DATATYPES: Final = frozenset(DATATYPES[name].code for name in ("register", "multi_value"))
_COUNT_DATATYPES: Final = frozenset(DATATYPES[name].code for name in ("counter", "g_counter"))
_TOTAL_BYTES: Final = 24
"""The most that one running total takes."""

_SUPERSEDED_BYTES: Final = 12
"""The most that naming one superseded dot may add to a write, which sealing cannot know."""


def check_space(labels: Iterable[str], limits: Limits) -> SpaceName:
    """Return a space's name as a tuple of labels; raises ``InvalidValue``."""
    if isinstance(labels, str):
        labels = (labels,)
    name = tuple(labels)
    if not 1 <= len(name) <= _SPACE_LABELS:
        raise InvalidValue(
            f"a space has 1 to {_SPACE_LABELS} labels, not {len(name)}",
            hint="nest deeper structure in keys or maps",
        )
    for label in name:
        check_label(label, "label of a space", limits.key_bytes)
    return name


@dataclass(frozen=True, slots=True)
class Options:
    """What qualifies one operation.

    ``observed``: the dots that the writer looked at; the write supersedes those
    and no others. ``conditional``: refuse the transaction unless the place holds
    exactly ``observed``. ``expires_at_us``: readers stop seeing the entry then.
    ``metadata``: further metadata, by its short names (``c`` confidence, ``s``
    subject tags, ``v`` evidence, ``o`` origin dot).
    """

    observed: frozenset[int] | None = None
    conditional: bool = False
    expires_at_us: int | None = None
    metadata: Metadata = field(default_factory=dict)

    def entry_metadata(self) -> Metadata:
        """Return the metadata that entries of this operation carry, by short names."""
        metadata = dict(self.metadata)
        if self.expires_at_us is not None:
            metadata["e"] = self.expires_at_us
        return ascending(metadata)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key: ``datatype`` by code, ``name`` and ``arguments`` of its table."""

    space: SpaceName
    datatype: int
    key: str
    name: str
    arguments: tuple[Any, ...] = ()
    options: Options | None = None


class PutRun:
    """Consecutive plain writes of one register datatype in one space."""

    __slots__ = (
        "_packed_count",
        "datatype",
        "keys",
        "packed_keys",
        "packed_values",
        "space",
        "values",
    )

    def __init__(self, space: SpaceName, datatype: int) -> None:
        self.space = space
        self.datatype = datatype
        self.keys: list[str] = []
        self.values: list[Any] = []
        self.packed_keys = b""
        self.packed_values = b""
        # Of how many keys ``packed_keys`` is known to be the column. Keys are only ever added.
        self._packed_count = 0

    def take_packed(self, keys: list[str], packed_keys: bytes) -> None:
        """Take keys that came as a column in its one encoding, to be sealed as they are."""
        self.keys = keys
        self.packed_keys = packed_keys
        self._packed_count = len(keys)

    def seal(self, limits: Limits) -> int:
        """Check and pack both columns; returns their size in bytes."""
        values = self.values
        self._seal_keys(limits)
        keys = self.keys
        if not _PLAIN.issuperset(map(type, values)):
            self.values = values = [freeze(value) for value in values]
        self.packed_values = pack(values)
        if len(self.packed_values) > limits.value_bytes:
            for key, value in zip(keys, values, strict=True):
                check_value_size(key, value, limits)
        return len(self.packed_keys) + len(self.packed_values) + _SUPERSEDED_BYTES * len(keys)

    def _seal_keys(self, limits: Limits) -> None:
        keys = self.keys
        if set(map(type, keys)) != _STR_ONLY or "" in keys:
            for key in keys:
                check_label(key, "key", limits.key_bytes)
        if self._packed_count != len(keys):
            self.packed_keys = pack_keys(keys)
        # No key takes more bytes than all of them.
        if len(self.packed_keys) > limits.key_bytes < 4 * len(max(keys, key=len)):
            for key in keys:
                check_label(key, "key", limits.key_bytes)


class CountRun(PutRun):
    """Consecutive increments of counters of one datatype in one space; values are amounts."""

    __slots__ = ()

    def seal(self, limits: Limits) -> int:
        """Check the keys and amounts; returns about how many bytes they will take."""
        self._seal_keys(limits)
        size = len(self.packed_keys) + (_TOTAL_BYTES + _SUPERSEDED_BYTES) * len(self.keys)
        if set(map(type, self.values)) != _INT_ONLY or min(self.values) < 0:
            raise InvalidValue(
                "an amount to count must be a whole number of at least 0",
                hint="use decrement to count down; keep fractions as multiples of a small unit",
            )
        if max(self.values) >> 64:
            raise InvalidValue("an amount to count must be below 2^64")
        return size


def check_value_size(key: str, value: Any, limits: Limits) -> None:
    """Raise ``LimitExceeded`` when a frozen value's encoding is over the limit."""
    if type(value) in (int, float, bool, type(None)):
        return
    size = len(pack(value))
    if size > limits.value_bytes + 5:
        raise LimitExceeded(
            f"the value of {key!r:.80} takes {size} bytes, the limit is {limits.value_bytes}",
            hint="split it, or store it elsewhere and keep a reference",
        )


class Transaction:
    """A list of steps that become visible all at once, everywhere, under one clock stamp.

    ``author`` and ``trust`` are stamped on every entry; ``operation_id`` (bytes
    drawn by the client) makes a retry count once.
    """

    __slots__ = (
        "_last",
        "author",
        "metadata",
        "operation_id",
        "size",
        "steps",
        "trust",
        "weight",
    )

    def __init__(
        self,
        *,
        author: str = "",
        trust: int = 0,
        operation_id: bytes | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> None:
        self.author = author
        self.trust = trust
        self.operation_id = operation_id
        self.metadata = metadata
        self.steps: list[PutRun | Operation] = []
        self._last: PutRun | None = None
        self.size = 0
        self.weight = 0

    def put(self, space: SpaceName, datatype: int, key: str, value: Any) -> None:
        """Add a plain write of a register."""
        run = self._last
        if type(run) is not PutRun or run.space is not space or run.datatype != datatype:
            run = self.run(space, datatype)
        run.keys.append(key)
        run.values.append(value)

    def run(self, space: SpaceName, datatype: int) -> PutRun:
        """Return the run that further plain writes of this space may extend."""
        last = self._last
        if type(last) is PutRun and last.space == space and last.datatype == datatype:
            return last
        run = self._last = PutRun(space, datatype)
        self.steps.append(run)
        return run

    def count(self, space: SpaceName, datatype: int, key: str, amount: int) -> None:
        """Add an increment of a counter: as ``add``, but staged in bulk with its neighbours."""
        run = self.count_run(space, datatype)
        run.keys.append(key)
        run.values.append(amount)

    def count_run(self, space: SpaceName, datatype: int) -> CountRun:
        """Return the run that further increments of this space's counters may extend."""
        last = self._last
        if type(last) is CountRun and last.space == space and last.datatype == datatype:
            return last
        run = self._last = CountRun(space, datatype)
        self.steps.append(run)
        return run

    def add(self, operation: Operation) -> None:
        """Add an operation on a datatype."""
        if operation.name == "increment" and operation.options is None:
            if operation.datatype in _COUNT_DATATYPES and len(operation.arguments) == 1:
                amount = operation.arguments[0]
                self.count(operation.space, operation.datatype, operation.key, amount)
                return
        self._last = None
        self.steps.append(operation)

    def seal(self, limits: Limits) -> Transaction:
        """Check everything that can be checked without the state; returns itself.

        Raises ``InvalidValue`` or ``LimitExceeded``; nothing was changed.
        """
        self._check_shared(limits)
        self.size = self.weight = 0
        self.steps = [s for s in self.steps if not isinstance(s, PutRun) or s.keys]
        checked: object = _UNCHECKED
        for index, step in enumerate(self.steps):
            if step.space is not checked:
                _require_space(step.space, limits)
                checked = step.space
            if isinstance(step, PutRun):
                if step.datatype not in (
                    _RUN_DATATYPES if type(step) is PutRun else _COUNT_DATATYPES
                ):
                    raise InvalidValue("a run writes registers, or counts counters up")
                self.size += step.seal(limits)
                self.weight += len(step.keys)
            else:
                self.steps[index] = _sealed_operation(step, limits)
                self.weight += 1
        if self.weight > limits.batch_deltas or self.size > limits.batch_bytes:
            raise LimitExceeded(
                f"a transaction of {self.weight} operations and {self.size} bytes; the limits are "
                f"{limits.batch_deltas} and {limits.batch_bytes}",
                hint="split it into several transactions",
            )
        return self

    def _check_shared(self, limits: Limits) -> None:
        """Check what all entries carry; raises ``InvalidValue`` or ``LimitExceeded``."""
        if self.author != "":
            check_label(self.author, "name of an author", limits.key_bytes)
        if type(self.trust) is not int or self.trust not in _TRUST_RANGE:
            raise InvalidValue(f"a trust of {self.trust!r:.40}", hint="trust is a 32-bit integer")
        identity = self.operation_id
        if identity is not None and (
            type(identity) is not bytes or not 1 <= len(identity) <= _OPERATION_ID_BYTES
        ):
            raise InvalidValue(
                f"an operation id is 1 to {_OPERATION_ID_BYTES} bytes, not {identity!r:.80}",
                hint="draw 16 random bytes once per operation, and keep them for its retries",
            )
        if self.metadata:
            self.metadata = _sealed_metadata(self.metadata, limits)

    def shared_metadata(self) -> Metadata | None:
        """Return what all entries of the transaction carry, by short names, or ``None``."""
        if not (self.author or self.trust or self.operation_id or self.metadata):
            return None
        metadata: Metadata = {}
        if self.author:
            metadata["a"] = self.author
        if self.operation_id:
            metadata["i"] = self.operation_id
        if self.trust:
            metadata["t"] = self.trust
        # In ascending order, as every map that is stored.
        return ascending({**metadata, **self.metadata}) if self.metadata else metadata


def _require_space(space: object, limits: Limits) -> None:
    """Refuse what is no space's name; unlike ``check_space``, convert nothing."""
    if type(space) is not tuple:
        raise InvalidValue(
            f"the space {space!r:.80} is no tuple of labels", hint="use the name of a Space"
        )
    check_space(space, limits)


def _sealed_operation(operation: Operation, limits: Limits) -> Operation:
    """Check an operation, and return it with private copies of what the caller could change."""
    check_label(operation.key, "key", limits.key_bytes)
    if operation.datatype not in DATATYPES_BY_CODE:
        raise UnknownName(
            f"no datatype has the code {operation.datatype!r:.40}",
            hint=f"there are {', '.join(DATATYPES)}",
        )
    if operation.name.startswith("_"):
        # Names with an underscore are what a replica asks of itself, unsealed.
        raise UnknownName(
            f"no operation is called {operation.name!r:.80}",
            hint="the operations of each datatype are the methods of its handle",
        )
    options = operation.options
    if options is not None:
        if options.expires_at_us is not None and (
            type(options.expires_at_us) is not int or options.expires_at_us not in _TIME_RANGE
        ):
            raise InvalidValue(
                f"an expiry of {options.expires_at_us!r:.40}",
                hint="give a whole number of microseconds since 1970",
            )
        if options.metadata:
            options = replace(options, metadata=_sealed_metadata(options.metadata, limits))
    for argument in operation.arguments:
        if type(argument) not in SCALARS:
            arguments = tuple([_private_copy(argument) for argument in operation.arguments])
            return replace(operation, arguments=arguments, options=options)
    return operation if options is operation.options else replace(operation, options=options)


def _sealed_metadata(metadata: Metadata, limits: Limits) -> Metadata:
    frozen: Metadata = freeze(metadata)
    if type(frozen) is not dict or not _RESERVED_METADATA.isdisjoint(frozen):
        raise InvalidValue(
            f"metadata cannot hold {', '.join(sorted(_RESERVED_METADATA & set(metadata)))}",
            hint="author, trust, operation id and expiry have arguments of their own",
        )
    if len(pack(frozen)) > limits.value_bytes:
        raise LimitExceeded(
            f"metadata of over {limits.value_bytes} bytes", hint="keep what is long in a value"
        )
    return frozen


def _private_copy(value: Any, depth: int = 0) -> Any:
    """Return a value that the caller cannot change; what it may hold is checked by its use."""
    kind = type(value)
    if kind not in (list, tuple, dict):
        return value
    if depth > MAX_DEPTH:
        raise LimitExceeded(f"a value nested over {MAX_DEPTH} deep", hint="flatten it")
    if kind is dict:
        return {name: _private_copy(item, depth + 1) for name, item in value.items()}
    return kind([_private_copy(item, depth + 1) for item in value])
