"""How transactions, reads and answers cross a socket: plain values, every shape checked.

Problem: a client and a node must agree on what a transaction, a reading or an
error is, and neither may trust the other's bytes: a wrong shape must be a clear
error, never a crash or a half-understood write.

Idea: each thing has an ``encode_…`` that returns plain values and a ``decode_…``
that checks them and rebuilds *the same class* that the embedded memory uses, so
that callers cannot tell the two apart. Runs of plain writes stay columns from
the caller to the log: they cross as the two packed columns that sealing made.

Invariants: ``decode(encode(x))`` equals ``x``; a decoder raises
``MalformedFrame`` and nothing else (``InvalidValue`` and ``LimitExceeded`` are
raised by sealing, as for an embedded caller); decoded values alias nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from crdtmem.batch import SpaceName, unpack_keys
from crdtmem.causality import Context, VersionVector
from crdtmem.changes import Change, Lagging, Part
from crdtmem.codec import SCALARS, pack, thaw, unpack
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import NO_METADATA, SEQUENCE_BITS, SEQUENCE_MASK, Entry, Stamp
from crdtmem.errors import CrdtmemError, InvalidValue, MalformedFrame, error_from_code
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.transaction import CountRun, Operation, Options, PutRun, Transaction

__all__ = [
    "decode_change",
    "decode_committed",
    "decode_conflict",
    "decode_context",
    "decode_error",
    "decode_part",
    "decode_reading",
    "decode_space",
    "decode_transaction",
    "decode_write_options",
    "encode_change",
    "encode_committed",
    "encode_conflict",
    "encode_context",
    "encode_error",
    "encode_part",
    "encode_reading",
    "encode_transaction",
    "encode_write_options",
    "require",
]

P = ParamSpec("P")
T = TypeVar("T")

_RUN: Final = 0
_OPERATION: Final = 1
_RUNS: Final[dict[str, type[PutRun]]] = {
    "register": PutRun,
    "multi_value": PutRun,
    "counter": CountRun,
    "g_counter": CountRun,
}
"""Which run a datatype's plain operations make: writes of registers, increments of counters."""

_DURABILITIES: Final = frozenset({"local", "region", "majority", "all"})
_LONGEST_WAIT_MS: Final = 24 * 3_600 * 1_000
_DEEPEST: Final = 40
_LAGGING: Final = "lagging"
_MESSAGE_CHARACTERS: Final = 10_000


def require(fine: bool, what: str) -> None:
    """Raise ``MalformedFrame`` unless ``fine``."""
    if not fine:
        raise MalformedFrame(
            f"{what} has the wrong shape", hint="is the other side of the same version?"
        )


def _checked(decode: Callable[P, T]) -> Callable[P, T]:
    """Turn whatever a wrong shape makes a decoder stumble upon into ``MalformedFrame``."""

    @wraps(decode)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return decode(*args, **kwargs)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            what = decode.__name__.removeprefix("decode_").replace("_", " ")
            raise MalformedFrame(
                f"a {what} with the wrong shape: {error}",
                hint="is the other side of the same version?",
            ) from error

    return wrapper


# ------------------------------------------------------------------ small parts


def decode_space(labels: Any) -> SpaceName:
    """Return a space's name."""
    require(
        type(labels) is tuple and 1 <= len(labels) <= 8 and all(type(x) is str for x in labels),
        "a space's name",
    )
    return tuple(labels)


def encode_context(context: Context | None) -> Any:
    """Return a context as its flat vector, ``None`` for none."""
    return None if context is None else context.vector.flat()


@_checked
def decode_context(numbers: Any) -> Context | None:
    """Rebuild a context."""
    return None if numbers is None else Context(VersionVector.from_flat(numbers))


def _flat_dots(dots: Iterable[int]) -> list[int]:
    numbers: list[int] = []
    for dot in sorted(dots):
        numbers += (dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK)
    return numbers


def _dots(numbers: Any) -> frozenset[int]:
    require(
        type(numbers) is tuple
        and len(numbers) % 2 == 0
        and all(type(n) is int and 0 <= n <= SEQUENCE_MASK for n in numbers),
        "a list of dots",
    )
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return frozenset(replica << SEQUENCE_BITS | sequence for replica, sequence in pairs)


def _is_metadata(metadata: Any) -> bool:
    return type(metadata) is dict and all(type(name) is str for name in metadata)


# ------------------------------------------------------------------ transactions


def encode_transaction(transaction: Transaction) -> list[Any]:
    """Return a *sealed* transaction as plain values; raises ``InvalidValue``."""
    steps: list[Any] = []
    for step in transaction.steps:
        if isinstance(step, PutRun):
            values = pack(step.values) if type(step) is CountRun else step.packed_values
            steps.append((_RUN, step.space, step.datatype, step.packed_keys, values))
        else:
            assert isinstance(step, Operation)
            arguments = tuple([_portable(argument) for argument in step.arguments])
            options = None if step.options is None else _encode_options(step.options)
            steps.append(
                (_OPERATION, step.space, step.datatype, step.key, step.name, arguments, options)
            )
    return [
        transaction.author,
        transaction.trust,
        transaction.operation_id,
        transaction.metadata or None,
        steps,
    ]


def _portable(value: Any, depth: int = 0) -> Any:
    """Return a private copy of an argument; raises ``InvalidValue`` as storing it would."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if depth < _DEEPEST:
        if kind is list or kind is tuple:
            return tuple([_portable(item, depth + 1) for item in value])
        if kind is dict and all(type(name) is str for name in value):
            return {name: _portable(item, depth + 1) for name, item in value.items()}
    raise InvalidValue(
        f"a value of type {kind.__name__} cannot be stored",
        hint="use None, bool, int, float, str, bytes, list or dict with text keys",
    )


def _encode_options(options: Options) -> tuple[Any, ...]:
    return (
        None if options.observed is None else _flat_dots(options.observed),
        options.conditional,
        options.expires_at_us,
        _portable(options.metadata) or None,
    )


@_checked
def decode_transaction(body: Any) -> Transaction:
    """Rebuild a transaction, *unsealed*: the node seals it against its own limits."""
    author, trust, operation_id, metadata, steps = body
    require(
        type(author) is str
        and type(trust) is int
        and (operation_id is None or (type(operation_id) is bytes and len(operation_id) <= 64))
        and (metadata is None or _is_metadata(metadata))
        and type(steps) is tuple,
        "a transaction",
    )
    transaction = Transaction(
        author=author,
        trust=trust,
        operation_id=operation_id,
        metadata=NO_METADATA if metadata is None else metadata,
    )
    for step in steps:
        require(type(step) is tuple and len(step) > 0, "a step")
        transaction.steps.append(_run(step) if step[0] == _RUN else _operation(step))
    return transaction


def _run(step: tuple[Any, ...]) -> PutRun:
    _, space, datatype, packed_keys, packed_values = step
    kind = DATATYPES_BY_CODE.get(datatype) if type(datatype) is int else None
    run_of = None if kind is None else _RUNS.get(kind.name)
    require(run_of is not None, "a run of writes")
    assert run_of is not None
    require(type(packed_keys) is bytes and type(packed_values) is bytes, "a run of writes")
    column, values = unpack(packed_keys), unpack(packed_values)
    keys = list(unpack_keys(column))
    require(type(values) is tuple and len(keys) == len(values) > 0, "a run of writes")
    run = run_of(decode_space(space), datatype)
    run.keys, run.values = keys, list(values)
    if pack(column) == packed_keys:
        run.take_packed(keys, packed_keys)
    return run


def _operation(step: tuple[Any, ...]) -> Operation:
    tag, space, datatype, key, name, arguments, options = step
    require(
        tag == _OPERATION
        and type(datatype) is int
        and datatype in DATATYPES_BY_CODE
        and type(key) is str
        and type(name) is str
        # Names with an underscore are the program's own: see ``replica``.
        and not name.startswith("_")
        and type(arguments) is tuple,
        "an operation",
    )
    return Operation(
        decode_space(space),
        datatype,
        key,
        name,
        tuple([thaw(argument) for argument in arguments]),
        None if options is None else _options(options),
    )


def _options(options: Any) -> Options:
    observed, conditional, expires_at_us, metadata = options
    require(
        type(conditional) is bool
        and (expires_at_us is None or type(expires_at_us) is int)
        and (metadata is None or _is_metadata(metadata)),
        "an operation's options",
    )
    return Options(
        observed=None if observed is None else _dots(observed),
        conditional=conditional,
        expires_at_us=expires_at_us,
        metadata={} if metadata is None else metadata,
    )


def encode_write_options(options: WriteOptions) -> list[Any]:
    """Return what qualifies a commit, but for what its transaction carries itself."""
    return [options.durability, options.timeout_ms, encode_context(options.after)]


@_checked
def decode_write_options(body: Any) -> WriteOptions:
    """Rebuild what qualifies a commit."""
    durability, timeout_ms, after = body
    require(
        durability in _DURABILITIES
        and type(timeout_ms) is int
        and 0 <= timeout_ms <= _LONGEST_WAIT_MS,
        "the options of a commit",
    )
    return WriteOptions(durability=durability, timeout_ms=timeout_ms, after=decode_context(after))


def encode_committed(committed: Committed, flat: Any = None) -> list[Any]:
    """Return the outcome of a commit as plain values; ``flat`` is its encoded context, if known."""
    return [
        encode_context(committed.context) if flat is None else flat,
        committed.results,
        committed.first,
        committed.count,
        committed.repeated,
    ]


@_checked
def decode_committed(body: Any) -> Committed:
    """Rebuild the outcome of a commit."""
    context, results, first, count, repeated = body
    require(
        type(results) is tuple
        and type(first) is int
        and type(count) is int
        and type(repeated) is bool,
        "the outcome of a commit",
    )
    vector = VersionVector.from_flat(context)
    return Committed(Context(vector), thaw(results), first, count, repeated)


# ------------------------------------------------------------------ readings


def encode_reading(reading: Reading) -> list[Any]:
    """Return a reading as plain values; entries of one transaction share their stamp."""
    stamps: dict[int, int] = {}
    table: list[Any] = []
    entries: list[Any] = []
    for dot, value, stamp in reading.entries:
        index = stamps.get(id(stamp))
        if index is None:
            index = stamps[id(stamp)] = len(table)
            table.append(stamp.identity())
        entries += (dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK, value, index)
    return [
        reading.value,
        reading.exists,
        reading.contested,
        reading.resolver,
        reading.also,
        reading.unknown_resolver,
        table,
        entries,
        reading.context.vector.flat(),
    ]


@_checked
def decode_reading(body: Any) -> Reading:
    """Rebuild a reading."""
    value, exists, contested, resolver, also, unknown, table, flat, vector = body
    require(
        type(exists) is bool
        and type(contested) is bool
        and type(resolver) is str
        and type(also) is tuple
        and type(unknown) is bool
        and type(flat) is tuple
        and len(flat) % 4 == 0,
        "a reading",
    )
    stamps = [_stamp(row) for row in table]
    entries: list[Entry] = []
    for at in range(0, len(flat), 4):
        replica, sequence, item, index = flat[at : at + 4]
        entries.append((replica << SEQUENCE_BITS | sequence, item, stamps[index]))
    return Reading(
        thaw(value),
        tuple(entries),
        contested=contested,
        resolver=resolver,
        also=also,
        exists=exists,
        unknown_resolver=unknown,
        vector=VersionVector.from_flat(vector),
    )


def _stamp(row: Any) -> Stamp:
    replica, order, physical_us, author, region, trust, expires_at_us, metadata = row
    require(
        set(map(type, (replica, order, physical_us, trust))) == {int}
        and type(author) is str
        and type(region) is str
        and (expires_at_us is None or type(expires_at_us) is int)
        and _is_metadata(metadata),
        "a stamp",
    )
    return Stamp(replica, order, physical_us, author, region, trust, expires_at_us, metadata)


def encode_conflict(conflict: Conflict) -> list[Any]:
    """Return a conflict as plain values."""
    return list(conflict.as_value().values())


@_checked
def decode_conflict(body: Any) -> Conflict:
    """Rebuild a conflict."""
    space, datatype, key, field, resolver, value, siblings = body
    require(
        type(datatype) is str
        and type(key) is str
        and type(resolver) is str
        and all(type(sibling) is dict for sibling in siblings),
        "a conflict",
    )
    return Conflict(
        decode_space(space), datatype, key, field, resolver, thaw(value), thaw(siblings)
    )


def encode_change(change: Change) -> list[Any]:
    """Return a change as plain values."""
    return [getattr(change, name) for name in Change.__slots__]


@_checked
def decode_change(body: Any) -> Change:
    """Rebuild a change."""
    space, *rest = body
    change = Change(decode_space(space), *rest)
    require(
        all(
            type(getattr(change, name)) is str
            for name in ("datatype", "key", "dot", "author", "region")
        )
        and type(change.removed) is bool
        and type(change.time_us) is int,
        "a change",
    )
    return change


def encode_part(part: Part | Lagging) -> list[Any]:
    """Return a part of a feed as plain values: ``[flat cursor | nil, [change, …]]``.

    The news that its reader is too slow is ``["lagging", missed]``.
    """
    if isinstance(part, Lagging):
        return [_LAGGING, part.missed]
    cursor = None if part.cursor is None else part.cursor.vector.flat()
    return [cursor, [encode_change(change) for change in part.changes]]


@_checked
def decode_part(body: Any) -> Part | Lagging:
    """Rebuild a part of a feed, or the news that its reader is too slow."""
    cursor, rest = body
    if cursor == _LAGGING:
        require(type(rest) is int and rest >= 0, "how many changes were missed")
        return Lagging(rest)
    require(type(rest) is tuple, "the changes of a part")
    return Part(decode_context(cursor), [decode_change(item) for item in rest])


# ------------------------------------------------------------------ errors


def encode_error(error: CrdtmemError) -> list[Any]:
    """Return an error as ``[code, message, hint, details]``."""
    return [error.code, error.message[:_MESSAGE_CHARACTERS], error.hint, _plain(error.details)]


def _plain(value: Any, depth: int = 0) -> Any:
    """Return details as they can cross a socket: what cannot is shown as text."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if depth < _DEEPEST:
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    return str(value)


@_checked
def decode_error(body: Any) -> CrdtmemError:
    """Rebuild an error, of the class that its code names."""
    code, message, hint, details = body
    require(
        type(code) is str and type(message) is str and type(hint) is str and _is_metadata(details),
        "an error",
    )
    kept = {name: thaw(item) for name, item in details.items() if name not in ("message", "hint")}
    return error_from_code(code, message, hint, kept)
