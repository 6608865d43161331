"""The importer: recorded events become ordinary writes, line by line.

Problem: real memory begins as files: conversations, runs of agents, exports of
another memory. Importing them must not need the file to fit in memory, must say
which line is wrong, must keep who said what, and may be interrupted and repeated.

Idea: ``read_events`` turns a file of JSON lines (plain or gzip) into ``Event``s, by
the shape of each line; ``plan`` turns an event into operations, in this table;
``import_events`` commits one transaction per event, many at a time, so that they
share the node's fsyncs.

============ ==================== ==================================================
shape        recognised by        becomes
============ ==================== ==================================================
``turn``     id, speaker, text    map ``fact:FILE:ID``; log ``timeline:FILE:SESSION``;
                                  counter ``turns:FILE:SPEAKER``; set ``speakers:FILE``
``message``  run, step, role      log ``run:FILE:RUN``; register ``state:FILE:RUN``; per
                                  tool call, counter ``tool_calls:FILE:TOOL`` and an
                                  element of set ``tools:FILE``
``record``   space, type, key,    what it was, in the space that it names: ``export``
             operation            writes these
``object``   anything else        register ``object:FILE:LINE``
============ ==================== ==================================================

Invariants: at most ``IN_FLIGHT`` transactions and one line are held; an event is
written whole or not at all; its operation id is drawn from file, line and content,
so a repeated import counts nothing twice as long as the ids are remembered.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from crdtmem.batch import SpaceName
from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError, InvalidValue, LimitExceeded
from crdtmem.exporting import from_json, record_transaction
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.session import MemoryProtocol
from crdtmem.transaction import Operation, PutRun, Transaction

__all__ = [
    "IN_FLIGHT",
    "LINE_BYTES",
    "Event",
    "ImportTotals",
    "Planned",
    "author_of",
    "import_events",
    "plan",
    "read_events",
    "transactions",
]

LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest line that is read; a longer one is an error, not an allocation."""

IN_FLIGHT: Final = 64
"""Transactions under way at once: enough to share an fsync, few enough to hold."""

_RECORDS_PER_TRANSACTION: Final = 100
_PROGRESS_LINES: Final = 200
_TURN: Final = frozenset({"id", "speaker", "text"})
_MESSAGE: Final = frozenset({"run", "step", "role"})
_RECORD: Final = frozenset({"space", "type", "key", "operation", "arguments"})
_SUFFIXES: Final = (".gz", ".jsonl", ".json", ".events")

Progress = Callable[[int, int], None]
"""Told how many bytes of the file have been read, and how many it has."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a file: its shape, where it stood, and what it said."""

    shape: str
    source: str
    path: str
    line: int
    body: dict[str, Any]


@dataclass(slots=True)
class ImportTotals:
    """What an import has done: ``repeated`` transactions had been written before."""

    events: int = 0
    operations: int = 0
    transactions: int = 0
    repeated: int = 0

    def as_value(self) -> dict[str, int]:
        """Return the totals as a plain dict."""
        return {
            "events": self.events,
            "operations": self.operations,
            "transactions": self.transactions,
            "repeated": self.repeated,
        }


class Planned(NamedTuple):
    """A transaction to commit, and the lines that it stands for."""

    transaction: Transaction
    events: list[Event]


# ------------------------------------------------------------------ reading


def read_events(path: Path, progress: Progress | None = None) -> Iterator[Event]:
    """Yield the events of a ``.jsonl`` or ``.jsonl.gz`` file, in order; blank lines are skipped.

    Raises ``InvalidValue`` for a file that cannot be read and for a line that is no
    JSON object, ``LimitExceeded`` for a line longer than ``LINE_BYTES``; each names
    file and line, also in ``details``.
    """
    source = _source_of(path)
    with _reading(path):
        size_bytes = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            lines = gzip.GzipFile(fileobj=raw) if packed else raw
            for number, text in _lines(path, lines):
                body = _object(path, number, text)
                if progress is not None and number % _PROGRESS_LINES == 0:
                    progress(raw.tell(), size_bytes)
                yield Event(_shape_of(body), source, str(path), number, body)
    if progress is not None:
        progress(size_bytes, size_bytes)


def _source_of(path: Path) -> str:
    """Return a file's name without the endings that only say how it is written."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name or path.name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidValue(
            f"{path} is damaged: {error}", hint="fetch the file again", path=str(path)
        ) from error
    except OSError as error:
        raise InvalidValue(
            f"{path} cannot be read: {error.strerror or error}",
            hint="check the path",
            path=str(path),
        ) from error


def _lines(path: Path, stream: BinaryIO | gzip.GzipFile) -> Iterator[tuple[int, bytes]]:
    number = 0
    while text := stream.readline(LINE_BYTES + 1):
        number += 1
        if len(text) > LINE_BYTES:
            raise LimitExceeded(
                f"{path}:{number} is longer than {LINE_BYTES} bytes",
                hint="split the event, or store its payload elsewhere",
                path=str(path),
                line=number,
            )
        if text.strip():
            yield number, text


def _object(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        # A byte order mark is not JSON, yet half the editors of the world write one.
        found = json.loads(text.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=_no)
    except UnicodeDecodeError as error:
        _refuse(path, number, f"is not UTF-8 at byte {error.start}", error)
    except json.JSONDecodeError as error:
        _refuse(path, number, f"is not JSON: {error.msg} at column {error.colno}", error)
    except (ValueError, RecursionError) as error:
        _refuse(path, number, f"is not JSON: {error}", error)
    if type(found) is not dict:
        _refuse(path, number, f"is a JSON {type(found).__name__}, not an object", None)
    return found


def _no(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _refuse(path: Path | str, line: int, what: str, error: Exception | None) -> NoReturn:
    raise InvalidValue(
        f"{path}:{line} {what}",
        hint="every line is one JSON object",
        path=str(path),
        line=line,
    ) from error


def _shape_of(body: dict[str, Any]) -> str:
    names = body.keys()
    if names >= _RECORD:
        return "record"
    if names >= _TURN:
        return "turn"
    return "message" if names >= _MESSAGE else "object"


# ------------------------------------------------------------------ planning


def plan(event: Event, space: SpaceName) -> list[Operation]:
    """Return the operations that an event becomes, in ``space``.

    An exported record names its own space; see ``exporting.record_transaction``,
    which also keeps its author. Raises ``InvalidValue``, naming the line, for members of
    the wrong type.
    """
    if event.shape == "record":
        _records([event], DEFAULT_LIMITS)
        body = from_json(event.body)
        name, arguments = body["operation"], body["arguments"]
        return [_operation(tuple(body["space"]), body["type"], body["key"], name, *arguments)]
    if event.shape == "turn":
        return _plan_turn(event, space)
    if event.shape == "message":
        return _plan_message(event, space)
    key = f"object:{event.source}:{event.line}"
    return [_operation(space, "register", key, "set", event.body)]


def author_of(event: Event) -> str:
    """Return who said what an event tells: a speaker, a role, a record's author."""
    for name in ("speaker", "role", "author"):
        if type(author := event.body.get(name)) is str:
            return author
    return event.source


def _operation(space: SpaceName, datatype: str, key: str, name: str, *arguments: Any) -> Operation:
    return Operation(space, DATATYPES[datatype].code, key, name, arguments)


def _plan_turn(event: Event, space: SpaceName) -> list[Operation]:
    turn, speaker = _label(event, "id"), _label(event, "speaker")
    session = _label(event, "session") if "session" in event.body else "0"
    members = {name: value for name, value in event.body.items() if name != "id"}
    return [
        _operation(space, "map", f"fact:{event.source}:{turn}", "update", members),
        _operation(space, "log", f"timeline:{event.source}:{session}", "append", turn),
        _operation(space, "counter", f"turns:{event.source}:{speaker}", "increment", 1),
        _operation(space, "set", f"speakers:{event.source}", "add", speaker),
    ]


def _plan_message(event: Event, space: SpaceName) -> list[Operation]:
    run, role = _label(event, "run"), _label(event, "role")
    told = {name: value for name, value in event.body.items() if name != "run"}
    state = {"step": event.body["step"], "role": role, "line": event.line}
    operations = [
        _operation(space, "log", f"run:{event.source}:{run}", "append", told),
        _operation(space, "register", f"state:{event.source}:{run}", "set", state),
    ]
    for call in event.body.get("tool_calls") or ():
        tool = call.get("name") if type(call) is dict else None
        if type(tool) is not str:
            _refuse(event.path, event.line, "has a tool call without a name", None)
        operations += [
            _operation(space, "counter", f"tool_calls:{event.source}:{tool}", "increment", 1),
            _operation(space, "set", f"tools:{event.source}", "add", tool),
        ]
    return operations


def _label(event: Event, name: str) -> str:
    """Return a member that becomes part of a key: a string or a whole number."""
    value = event.body[name]
    if type(value) not in (str, int) or value == "":
        _refuse(event.path, event.line, f"has the {name} {value!r:.40}, no string or number", None)
    return str(value)


def _records(events: list[Event], limits: Limits) -> Transaction:
    with _at(events[0]):
        return record_transaction([from_json(event.body) for event in events], limits)


def transactions(events: Iterable[Event], space: SpaceName, limits: Limits) -> Iterator[Planned]:
    """Yield the transactions that write ``events``, sealed against ``limits``.

    One per event, but runs of exported records of one author and trust share one.
    Raises ``InvalidValue`` or ``LimitExceeded``, naming the line.
    """
    for _, run in groupby(events, key=_together):
        group: list[Event] = []
        for event in run:
            if event.shape != "record":
                yield _sealed(_of_event(event, space), [event], limits)
                continue
            group.append(event)
            if len(group) == _RECORDS_PER_TRANSACTION:
                yield _sealed(_records(group, limits), group, limits)
                group = []
        if group:
            yield _sealed(_records(group, limits), group, limits)


def _together(event: Event) -> tuple[Any, ...]:
    """Return what events must share to be written by one transaction."""
    body = event.body
    if event.shape != "record":
        return (event.shape,)
    # Of siblings, each is written by itself, or one would supersede the other.
    alone = event.line if body.get("sibling") else 0
    return event.shape, repr(body.get("author")), repr(body.get("trust")), alone


def _of_event(event: Event, space: SpaceName) -> Transaction:
    named = json.dumps([space, event.source, event.line, event.body], sort_keys=True)
    identity = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16)
    transaction = Transaction(author=author_of(event), operation_id=identity.digest())
    for operation in plan(event, space):
        transaction.add(operation)
    return transaction


def _sealed(transaction: Transaction, events: list[Event], limits: Limits) -> Planned:
    with _at(events[0]):
        transaction.seal(limits)
    return Planned(transaction, events)


@contextmanager
def _at(event: Event) -> Iterator[None]:
    """Name the line in whatever error its content causes."""
    try:
        yield
    except CrdtmemError as error:
        raise _named(event, error) from error


def _named(event: Event, error: CrdtmemError) -> CrdtmemError:
    where = {**error.details, "path": event.path, "line": event.line}
    return type(error)(f"{event.path}:{event.line}: {error.message}", hint=error.hint, **where)


# ------------------------------------------------------------------ writing


async def import_events(
    memory: MemoryProtocol,
    events: Iterable[Event],
    space: SpaceName,
    *,
    on_commit: Callable[[ImportTotals], None] | None = None,
) -> ImportTotals:
    """Commit events through a memory or a client; return the totals once all are durable.

    Raises what the first failing event raises, naming its line; what was committed
    before stays, and a repeated import skips it. ``on_commit`` is told after each.
    """
    totals = ImportTotals()
    under_way: set[asyncio.Task[None]] = set()

    async def commit(planned: Planned) -> None:
        try:
            committed = await memory.commit(planned.transaction, memory.options)
        except CrdtmemError as error:
            raise _named(planned.events[0], error) from error
        totals.events += len(planned.events)
        totals.operations += sum(
            len(step.keys) if isinstance(step, PutRun) else 1 for step in planned.transaction.steps
        )
        totals.transactions += 1
        totals.repeated += committed.repeated
        if on_commit is not None:
            on_commit(totals)

    try:
        for planned in transactions(events, space, memory.limits):
            under_way.add(asyncio.create_task(commit(planned)))
            if len(under_way) >= IN_FLIGHT:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in list(under_way):
            await task
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return totals
