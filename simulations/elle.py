"""Histories for Jepsen's Elle: what the clients asked and saw, as EDN or JSON.

Problem: our checkers know our promises; an independent checker that knows none of our
code, and finds anomalies by searching for cycles between transactions, is worth having.

Idea: each client is a *process*, each call two operations, ``invoke`` and its end: ``ok``,
``fail`` (refused: it had no effect) or ``info`` (nobody knows). Elle reads transactions
of micro-operations in two vocabularies:

- **list-append**: ``[:append key element]`` and ``[:r key [elements]]``. A ``log`` is a list
  that is appended to; its elements are made unique by numbering.
- **rw-register**: ``[:w key value]`` and ``[:r key value]``. A ``register`` fits, with every
  value written made unique likewise.

A read shows a state that may hold what concurrent writers wrote, in canonical order: what
is checked for is causal consistency with convergence (PRAM, read your writes, monotonic
reads, writes follow reads, no dirty reads), never serialisability, which nobody promises.

Invariants: every element written anywhere is a number of its own; what comes
after ``info`` belongs to a new process, as Jepsen has it, so that one process never has two
operations open; operations are in the order of time.

Source: Kingsbury and Alvaro, *Elle: Inferring Isolation Anomalies from Experimental
Observations*, VLDB 2020.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from crdtmem.codec import thaw
from crdtmem.reading import Reading
from simulations.history import Call

__all__ = ["Kind", "Operation", "operations", "to_edn", "to_json", "write_history"]

Kind = Literal["list-append", "rw-register"]
"""What Elle is to take the history for."""

_DATATYPES: Final[dict[Kind, str]] = {"list-append": "log", "rw-register": "register"}
_ENDS: Final = {"ok": "ok", "refused": "fail", "unknown": "info"}


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


def operations(calls: Iterable[Call], kind: Kind) -> list[Operation]:
    """Return a history's calls in Elle's form, in the order of time."""
    reader = _Reader(kind)
    events: list[tuple[int, int, int, Call, list[list[Any]]]] = []
    for call in calls:
        asked = reader.transaction(call)
        if asked is not None:
            events.append((call.at_us, 1, call.number, call, asked))
            ended_us = call.ended_us if call.ended_us is not None else call.given_up_us
            if ended_us is not None:
                events.append((ended_us, 0, call.number, call, reader.seen(call, asked)))
    # At one moment answers come before what is asked next, but never before their question.
    events.sort(key=lambda event: (event[0], event[1], event[2]))
    return list(_numbered(_in_turn(events)))


def _in_turn(
    events: list[tuple[int, int, int, Call, list[list[Any]]]],
) -> Iterator[tuple[int, bool, Call, list[list[Any]]]]:
    """Yield invocations and ends; an answer at the moment of its question comes after it."""
    asked: set[int] = set()
    early: dict[int, tuple[int, bool, Call, list[list[Any]]]] = {}
    for time_us, begins, number, call, value in events:
        if begins:
            asked.add(number)
            yield time_us, True, call, value
            if number in early:
                yield early.pop(number)
        elif number in asked:
            yield time_us, False, call, value
        else:
            early[number] = (time_us, False, call, value)


def _numbered(events: Iterable[tuple[int, bool, Call, list[list[Any]]]]) -> Iterator[Operation]:
    """Give processes their numbers: a client whose call is unknown goes on as another one."""
    process_of: dict[int, int] = {}
    busy: dict[int, int] = {}
    of_call: dict[int, int] = {}
    fresh = 0
    for index, (time_us, begins, call, value) in enumerate(events):
        if begins:
            process = process_of.get(call.client)
            if process is None or process in busy:
                process, fresh = fresh, fresh + 1
                process_of[call.client] = process
            busy[process] = of_call[call.number] = process
            yield Operation(index, time_us, process, "invoke", value)
            continue
        process = of_call[call.number]
        # Refused for not being durable as widely as asked: it is there all the same.
        end = "info" if call.outcome == "refused" and call.dots else _ENDS[call.outcome]
        if end != "info":
            busy.pop(process, None)
        yield Operation(index, time_us, process, end, value)


# ---------------------------------------------------------------------- forms


def to_json(found: Iterable[Operation]) -> str:
    """Return a history as JSON, one operation per line."""
    lines = (
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
    )
    return "".join(f"{line}\n" for line in lines)


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


def write_history(path: Path, calls: Iterable[Call]) -> list[Path]:
    """Write both kinds of history beside each other; returns the files.

    ``h.edn`` becomes ``h.list-append.edn`` and ``h.rw-register.edn``; with a name that ends
    in ``.json`` both are JSON.
    """
    calls, written = list(calls), []
    write = to_json if path.suffix == ".json" else to_edn
    for kind in _DATATYPES:
        file = path.with_name(f"{path.stem}.{kind}{path.suffix}")
        file.write_text(write(operations(calls, kind)), encoding="utf-8")
        written.append(file)
    return written
