"""Histories for Jepsen's Elle: what the clients asked and saw, as EDN or JSON.

Problem: our checkers know our promises; an independent checker that knows none of our
code, and finds anomalies by searching for cycles between transactions, is worth having.

Idea: each client is a *process*, each thing that it asks for, with all attempts at it, two
operations: ``invoke`` and its end, ``ok``, ``fail`` (it had no effect) or ``info`` (nobody
knows). Elle reads transactions of micro-operations in two vocabularies:

- **list-append**: ``[:append key element]`` and ``[:r key [elements]]``. A ``log`` is a list
  that is appended to; its elements are made unique by numbering.
- **rw-register**: ``[:w key value]`` and ``[:r key value]``. A ``register`` fits, with every
  value written made unique likewise.

A read shows a state that may hold what concurrent writers wrote, in canonical order: what
is checked for is causal consistency with convergence (PRAM, read your writes, monotonic
reads, writes follow reads, no dirty reads), never serialisability, which nobody promises.

``elle-cli --model rw-register --consistency-models read-committed`` takes the second as it is,
and ought to find nothing. Of the first it will say ``incompatible-order`` where a log was read
before a late entry was woven in; look at its other anomalies.

The forms are those that Elle's and elle-cli's documentation, reader and sample histories
have: EDN one map after another, JSON one array, indices from 0 without a gap. Held against
these by eye and by tests, and not yet run through Elle itself, which Clojars alone has.

Invariants: every element written anywhere is a number of its own; what comes
after ``info`` belongs to a new process, as Jepsen has it, so that one process never has two
operations open; operations are in the order of time.

Source: Kingsbury and Alvaro, *Elle: Inferring Isolation Anomalies from Experimental
Observations*, VLDB 2020.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from crdtmem.codec import thaw
from crdtmem.reading import Reading
from simulations.history import Call

__all__ = ["Kind", "Operation", "histories", "operations", "to_edn", "to_json"]

Kind = Literal["list-append", "rw-register"]
"""What Elle is to take the history for."""

_DATATYPES: Final[dict[Kind, str]] = {"list-append": "log", "rw-register": "register"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a history: ``value`` is a transaction, ``[[function, key, value], …]``."""

    index: int
    time_us: int
    process: int
    type: str
    value: list[list[Any]]


class _Numbers:
    """Gives every element that was written a number of its own, and knows it when it is read.

    An element is known by its operation's id, which travels with it, and its value: equal
    values of two writes are two elements, and one that was retried is one.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, str, str], int] = {}

    def of(self, operation_id: bytes, key: str, value: Any) -> int:
        """Return the number of an element."""
        name = (operation_id, key, json.dumps(value, sort_keys=True, default=repr))
        return self._found.setdefault(name, len(self._found) + 1)


class _Reader:
    """Turns calls into transactions of one vocabulary."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.datatype = _DATATYPES[kind]
        self.numbers = _Numbers()

    def transaction(self, call: Call) -> list[list[Any]] | None:
        """Return what a call asked for, with reads open; ``None`` for what Elle cannot read."""
        arguments = call.step.arguments
        if call.step.kind == "read" and arguments["datatype"] == self.datatype:
            return [["r", _key(arguments["space"], arguments["key"]), None]]
        if call.step.kind != "write" or not arguments["operations"]:
            return None
        found: list[list[Any]] = []
        for space, datatype, key, name, given, *rest in arguments["operations"]:
            writes = name == "append" if self.kind == "list-append" else name == "set"
            if datatype != self.datatype or not writes or (rest and rest[0]):
                # Half a transaction would look like an anomaly.
                return None
            place = _key(space, key)
            function = "append" if self.kind == "list-append" else "w"
            number = self.numbers.of(call.operation_id or b"", place, given[0])
            found.append([function, place, number])
        return found

    def seen(self, call: Call, asked: list[list[Any]]) -> list[list[Any]]:
        """Return the transaction as it was answered: with what reads returned."""
        if call.outcome != "ok" or call.step.kind != "read":
            return asked
        (_, key, _) = asked[0]
        reading: Reading = call.result
        numbers = {
            entry[0]: self.numbers.of(entry[2].metadata.get("i", b""), key, thaw(entry[1]))
            for entry in reading.entries
        }
        if self.kind == "list-append":
            in_order = sorted(reading.entries, key=lambda entry: (entry[2].order, entry[0]))
            return [["r", key, [numbers[entry[0]] for entry in in_order]]]
        shown = [dot for dot, value, _ in reading.entries if thaw(value) == reading.value]
        return [["r", key, numbers[shown[-1]] if shown else None]]


def _key(space: Iterable[str], key: str) -> str:
    return "/".join((*space, key))


@dataclass(slots=True)
class _Attempts:
    """All attempts at one thing, which are one operation: an id counts once, wherever it went."""

    number: int
    client: int
    value: list[list[Any]]
    begins_us: int
    ends_us: int | None = None
    type: str = "info"
    answer: list[list[Any]] = field(default_factory=list)

    @classmethod
    def of(cls, calls: list[Call], reader: _Reader) -> _Attempts | None:
        """Return what some calls are together; ``None`` for what Elle cannot read."""
        first, value = calls[0], reader.transaction(calls[0])
        if value is None:
            return None
        found = cls(first.number, first.client, value, first.at_us, answer=value)
        fine = next((call for call in calls if call.outcome == "ok"), None)
        if fine is not None:
            found.type, found.ends_us = "ok", fine.ended_us
            found.answer = reader.seen(fine, value)
            return found
        # Refused for not being durable as widely as asked: it is there all the same.
        if all(call.outcome == "refused" and call.dots is None for call in calls):
            found.type = "fail"
        ends = [call.given_up_us if call.ended_us is None else call.ended_us for call in calls]
        found.ends_us = None if None in ends else max(end for end in ends if end is not None)
        return found


def operations(calls: Iterable[Call], kind: Kind) -> list[Operation]:
    """Return a history's calls in Elle's form, in the order of time."""
    reader = _Reader(kind)
    groups: dict[tuple[int, bytes], list[Call]] = {}
    for call in calls:
        name = call.operation_id or f"read {call.number}".encode()
        groups.setdefault((call.client, name), []).append(call)
    events: list[tuple[int, int, bool, _Attempts]] = []
    for group in groups.values():
        attempts = _Attempts.of(group, reader)
        if attempts is not None:
            events.append((attempts.begins_us, attempts.number, True, attempts))
            if attempts.ends_us is not None:
                events.append((attempts.ends_us, attempts.number, False, attempts))
    # A client asks the next thing after the answer: numbers rise with both.
    events.sort(key=lambda event: (event[0], event[1], not event[2]))
    return list(_numbered(events))


def _numbered(events: Iterable[tuple[int, int, bool, _Attempts]]) -> Iterator[Operation]:
    """Give processes their numbers: a client whose call is unknown goes on as another one."""
    process_of: dict[int, int] = {}
    busy: set[int] = set()
    of_call: dict[int, int] = {}
    fresh = 0
    for index, (time_us, number, begins, attempts) in enumerate(events):
        if begins:
            process = process_of.get(attempts.client)
            if process is None or process in busy:
                process, fresh = fresh, fresh + 1
                process_of[attempts.client] = process
            busy.add(process)
            of_call[number] = process
            yield Operation(index, time_us, process, "invoke", attempts.value)
        else:
            process = of_call[number]
            if attempts.type != "info":
                busy.discard(process)
            yield Operation(index, time_us, process, attempts.type, attempts.answer)


# ---------------------------------------------------------------------- forms


def to_json(found: Iterable[Operation]) -> str:
    """Return a history as JSON: one array, as elle-cli reads it, one operation per line."""
    lines = [
        json.dumps(
            {
                "index": operation.index,
                "time": operation.time_us * 1_000,
                "process": operation.process,
                "type": operation.type,
                "f": "txn",
                "value": operation.value,
            }
        )
        for operation in found
    ]
    # Of a file of several values elle-cli would read the first, and find nothing wrong with it.
    return "[" + ",\n".join(lines) + "]\n"


def to_edn(found: Iterable[Operation]) -> str:
    """Return a history as EDN, one operation per line, times in nanoseconds as Jepsen has them."""
    return "".join(
        f"{{:index {operation.index}, :time {operation.time_us * 1_000}, "
        f":process {operation.process}, :type :{operation.type}, :f :txn, "
        f":value {_edn(operation.value)}}}\n"
        for operation in found
    )


def _edn(transaction: list[list[Any]]) -> str:
    parts = (
        f"[:{function} {json.dumps(key)} {_edn_value(value)}]"
        for function, key, value in transaction
    )
    return f"[{' '.join(parts)}]"


def _edn_value(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, list):
        return f"[{' '.join(map(str, value))}]"
    return str(value)


def histories(calls: Iterable[Call], *, as_json: bool = False) -> dict[str, str]:
    """Return both kinds of history, as EDN or JSON, by kind."""
    calls = list(calls)
    write = to_json if as_json else to_edn
    return {kind: write(operations(calls, kind)) for kind in _DATATYPES}
