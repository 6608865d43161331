"""The ledger: what was acknowledged, and whether every region still has it.

Problem: "converged" is not "kept". Three regions that have lost the same write agree
with each other perfectly.

Idea: each write is entered here when, and only when, its node acknowledged it. In the
end every entry is looked for in every region, twice over. By *dot*: what a region has
joined must cover it. By *value*, through ordinary reads:

============ =================================================================
datatype     an acknowledged write is present when
============ =================================================================
register     its value and author are among the siblings
map          its member holds the value, or has it among the siblings
counter      the total is the sum of all that was acknowledged
set          the element added is there; the element removed is not
log          the entry is there, once per append
document     the document equals one made of all acknowledged updates
others       by dot alone
============ =================================================================

A register or member may rightly be gone when an acknowledged write of the same place
superseded it: one that names it as observed, or a blind one whose context covers it,
so whose replica held it.

Invariants: the ledger never asks a node what it should hold; an entry that is missing
in any region counts as lost, once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.causality import Context
from crdtmem.codec import freeze, pack
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.crdt.updates import materialise, plain_value
from crdtmem.entries import unpack_dot
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.session import MemoryProtocol
from crdtmem.transaction import CountRun, Operation, PutRun, Transaction

__all__ = ["Ledger", "Place", "Verdict", "Write"]

Place = tuple[tuple[str, ...], int, str]
"""Space, datatype code and key."""

_AT_ONCE: Final = 64
_ADDITIONS: Final = {"increment": 1, "decrement": -1}


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One acknowledged operation."""

    operation: Operation
    author: str
    replica: int
    first: int
    last: int
    index: int
    context: Context

    def superseded_by(self, other: Write) -> bool:
        """Whether ``other``, written at the same place, may have displaced this."""
        options = other.operation.options
        if options is not None and options.observed is not None:
            seen = (unpack_dot(dot) for dot in options.observed)
            return any(
                replica == self.replica and self.first <= sequence <= self.last
                for replica, sequence in seen
            )
        if other.replica == self.replica:
            return (other.first, other.index) > (self.first, self.index)
        return other.context.vector.get(self.replica, 0) >= self.last


@dataclass(slots=True)
class Verdict:
    """What the check found: writes missing somewhere, and totals that are too high."""

    lost: set[Write] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def miss(self, region: str, place: Place, writes: Iterable[Write], what: str) -> None:
        """Note that ``writes`` are missing in a region."""
        missing = list(writes)
        self.lost.update(missing)
        if missing:
            space, code, key = place
            where = f"{'/'.join(space)} {DATATYPES_BY_CODE[code].name} {key}"
            self.faults.append(f"{region}: {where}: {what} ({len(missing)} writes)")


class Ledger:
    """Everything that was acknowledged, by place."""

    def __init__(self) -> None:
        self.by_place: dict[Place, list[Write]] = defaultdict(list)
        self.acknowledged: Counter[str] = Counter()
        self.context = Context()

    @property
    def total(self) -> int:
        """How many operations were acknowledged."""
        return self.acknowledged.total()

    def enter(self, region: str, transaction: Transaction, committed: Committed) -> None:
        """Enter an acknowledged transaction."""
        self.context = self.context.merge(committed.context)
        replica, first = unpack_dot(committed.first)
        last = first + committed.count - 1
        for index, operation in enumerate(_operations(transaction)):
            author, context = transaction.author, committed.context
            write = Write(operation, author, replica, first, last, index, context)
            place = (operation.space, operation.datatype, operation.key)
            self.by_place[place].append(write)
            self.acknowledged[region] += 1

    async def check(self, clients: Mapping[str, MemoryProtocol]) -> Verdict:
        """Look for every entry in every region. Raises what a read raises."""
        verdict = Verdict()
        for region, client in clients.items():
            vector = (await client.joined()).vector
            for place, writes in self.by_place.items():
                behind = [write for write in writes if vector.get(write.replica, 0) < write.last]
                verdict.miss(region, place, behind, "not joined")
            limit = asyncio.Semaphore(_AT_ONCE)
            async with asyncio.TaskGroup() as group:
                for place in self.by_place:
                    group.create_task(self._check_place(region, client, place, verdict, limit))
        return verdict

    async def _check_place(
        self,
        region: str,
        client: MemoryProtocol,
        place: Place,
        verdict: Verdict,
        limit: asyncio.Semaphore,
    ) -> None:
        async with limit:
            reading = await client.read(*place)
        writes = self.by_place[place]
        check = _CHECKS.get(DATATYPES_BY_CODE[place[1]].name)
        if check is not None:
            for what, missing in check(writes, reading):
                verdict.miss(region, place, missing, what)


def _operations(transaction: Transaction) -> Iterator[Operation]:
    for step in transaction.steps:
        if isinstance(step, PutRun):
            for key, value in zip(step.keys, step.values, strict=True):
                name = "increment" if isinstance(step, CountRun) else "set"
                yield Operation(step.space, step.datatype, key, name, (value,))
        else:
            yield step


# ------------------------------------------------------------------ datatypes

Findings = Iterator[tuple[str, list[Write]]]


def _mark(value: Any) -> bytes:
    """Return a value in a form that can be compared and counted."""
    return pack(freeze(value))


def _standing(writes: list[Write]) -> list[Write]:
    """Return the writes of one place that no other acknowledged write superseded."""
    return [write for write in writes if not any(write.superseded_by(other) for other in writes)]


def _check_register(writes: list[Write], reading: Reading) -> Findings:
    held = {(_mark(sibling.value), sibling.author) for sibling in reading.siblings}
    missing = [
        write
        for write in _standing(writes)
        if write.operation.name == "set"
        and (_mark(write.operation.arguments[0]), write.author) not in held
    ]
    yield "the value is neither shown nor a sibling", missing


def _check_map(writes: list[Write], reading: Reading) -> Findings:
    members: dict[tuple[str, ...], list[tuple[Write, Any]]] = defaultdict(list)
    for write in writes:
        for path, value in _members(write.operation):
            members[path].append((write, value))
    deletions = [write for write in writes if write.operation.name == "delete"]
    held = {(_mark(sibling.value), sibling.author) for sibling in reading.siblings}
    for path, written in members.items():
        standing = _standing([*[write for write, _ in written], *deletions])
        missing = [
            write
            for write, value in written
            if write in standing
            and _mark(_at(reading.value, path)) != _mark(value)
            and (_mark(value), write.author) not in held
        ]
        yield f"member {'/'.join(path)} is neither shown nor a sibling", missing


def _members(operation: Operation) -> Iterator[tuple[tuple[str, ...], Any]]:
    arguments = operation.arguments
    if operation.name == "set":
        path = arguments[0]
        yield (path,) if type(path) is str else tuple(path), arguments[1]
    elif operation.name == "update":
        for name, value in arguments[0].items():
            yield (name,), value


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _check_counter(writes: list[Write], reading: Reading) -> Findings:
    counted = [write for write in writes if write.operation.name in _ADDITIONS]
    if len(counted) < len(writes):
        # A reset takes back what it observed: there is no one total to expect.
        return
    expected = sum(
        _ADDITIONS[write.operation.name] * (write.operation.arguments or (1,))[0]
        for write in counted
    )
    if reading.value != expected:
        off = min(len(counted), abs(expected - (reading.value or 0)))
        yield f"the total is {reading.value}, not {expected}", counted[-off:]


def _check_set(writes: list[Write], reading: Reading) -> Findings:
    by_element: dict[bytes, list[Write]] = defaultdict(list)
    for write in writes:
        if write.operation.name not in ("add", "remove"):
            # A clear takes what was known there: no one element is to be expected.
            return
        by_element[_mark(write.operation.arguments[0])].append(write)
    held = {_mark(element) for element in reading.value or ()}
    for element, touching in by_element.items():
        standing = {write.operation.name: write for write in _standing(touching)}
        if element not in held and "add" in standing:
            yield "the element is absent", [standing["add"]]
        if element in held and "add" not in standing:
            yield "the element was removed, and is there", [standing["remove"]]


def _check_log(writes: list[Write], reading: Reading) -> Findings:
    held = Counter(_mark(entry) for entry in reading.value or ())
    expected: Counter[bytes] = Counter()
    of_entry: dict[bytes, list[Write]] = defaultdict(list)
    for write in writes:
        if write.operation.name == "delete":
            return
        entries = write.operation.arguments
        for entry in entries[0] if write.operation.name == "extend" else entries:
            expected[_mark(entry)] += 1
            of_entry[_mark(entry)].append(write)
    for entry, count in expected.items():
        if held[entry] != count:
            off = min(count, abs(count - held[entry]))
            yield f"an entry is there {held[entry]} times, not {count}", of_entry[entry][-off:]


def _check_document(writes: list[Write], reading: Reading) -> Findings:
    if any(write.operation.name != "update" for write in writes):
        return
    updates = [write.operation.arguments[0] for write in writes]
    if plain_value(materialise(updates)) != reading.value:
        yield "the content is not that of the acknowledged updates", writes


_CHECKS: Final = {
    "register": _check_register,
    "multi_value": _check_register,
    "map": _check_map,
    "counter": _check_counter,
    "g_counter": _check_counter,
    "set": _check_set,
    "log": _check_log,
    "document": _check_document,
}
