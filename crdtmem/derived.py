"""What a replica derives from its state and keeps at hand: policies, operation ids, and more.

Problem: looking up a space's policy for every write, or searching the log for an
operation id, would cost more than the write.

Idea: both are caches of replicated data, brought up to date whenever a batch is
published, and rebuilt after a recovery. A client draws an operation id for each
transaction; whoever sees the id again answers with the first one's dots instead
of doing it twice.

Invariants: the policy at hand is the one that the state resolves to; at most
``KNOWN_OPERATIONS`` ids are remembered, the oldest forgotten first, so that a
retry counts once as long as it comes within so many transactions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from crdtmem.batch import Batch, Segment, SpaceName
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import Field, Siblings, Stamp
from crdtmem.errors import InvalidValue
from crdtmem.policy import DEFAULT_POLICY, SYSTEM_SPACE, Policy, policy_key, policy_space
from crdtmem.reading import SpaceReader
from crdtmem.table import State, Table

__all__ = [
    "KNOWN_OPERATIONS",
    "KnownOperations",
    "Policies",
    "collectible_in_slices",
    "collectible_keys",
]

KNOWN_OPERATIONS: Final = 100_000
_REGISTER: Final = 1
_SLICE_KEYS: Final = 4_000
_NOBODY: Final = Stamp(0, 0, 0)


class Policies:
    """The policy of each space that has one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._policies: dict[SpaceName, Policy] = {}
        self.quotas: dict[SpaceName, Policy] = {}
        """The policies among them that set a quota."""

    def of(self, space: SpaceName) -> Policy:
        """Return a space's policy, from the replicated record or the default."""
        return self._policies.get(space, DEFAULT_POLICY)

    def note(self, keys: str | Iterable[str]) -> None:
        """Read again what these keys of the system space say."""
        for key in (keys,) if isinstance(keys, str) else keys:
            space = policy_space(key)
            if space is not None:
                policy = self._policies[space] = self._read(space)
                if policy.has_quota:
                    self.quotas[space] = policy
                else:
                    self.quotas.pop(space, None)

    def note_all(self) -> None:
        """Read every policy again."""
        system = self._state.find(SYSTEM_SPACE, _REGISTER)
        if system is not None:
            self.note(list(system.slots))

    def _read(self, space: SpaceName) -> Policy:
        system = self._state.find(SYSTEM_SPACE, _REGISTER)
        slot = None if system is None else system.slots.get(policy_key(space))
        # Policies are resolved by latest, whatever the system space's own policy says.
        reader = SpaceReader(0)
        entries = reader.live(slot)
        if not entries:
            return DEFAULT_POLICY
        try:
            return Policy.from_value(reader.resolve(entries))
        except InvalidValue:
            # A later version's policy that cannot be read here: serve by the default.
            return DEFAULT_POLICY


class KnownOperations:
    """The operation ids of recent transactions, with their first dot and number of deltas."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._joining: Sequence[Batch] = ()
        self._joined: KnownOperations | None = None

    def expect(self, batches: Sequence[Batch]) -> None:
        """Name the batches that the flight joins which is being staged: ``find`` knows them too.

        Whatever is staged with them stands on them. They are looked into when the first
        operation is sought.
        """
        self._joining, self._joined = tuple(batches), None

    def find(self, identity: bytes) -> tuple[int, int] | None:
        """Return the first dot and the number of deltas of a known operation."""
        known = self._known.get(identity)
        if known is None and self._joining:
            if self._joined is None:
                self._joined = KnownOperations()
                for batch in self._joining:
                    self._joined.note(batch)
            known = self._joined.find(identity)
        return known

    def learn(self, identity: bytes, first: int, count: int) -> None:
        """Remember an operation; the first to be seen under an id stays."""
        self._known.setdefault(identity, (first, count))
        while len(self._known) > KNOWN_OPERATIONS:
            self._known.popitem(last=False)

    def forget(self, identity: bytes) -> None:
        """Forget an operation whose commit failed."""
        self._known.pop(identity, None)

    def note(self, batch: Batch) -> None:
        """Remember the operation ids that a published batch carries."""
        for index, (_, _, metadata, first) in enumerate(batch.transactions):
            identity = metadata.get("i") if metadata else None
            if type(identity) is bytes and identity not in self._known:
                following = batch.transactions[index + 1 :]
                end = following[0][3] if following else len(batch.segments)
                parts = batch.segments[first:end]
                self.learn(identity, parts[0].first, sum(part.count for part in parts))

    def listed(self) -> list[tuple[bytes, int, int]]:
        """Return them all, oldest first."""
        return [(name, first, count) for name, (first, count) in self._known.items()]


def collectible_keys(state: State) -> dict[tuple[SpaceName, int], set[str]]:
    """Return the keys in which a state may hold what is to be collected one day.

    Whoever publishes batches notes these from their segments; a recovered state has none.
    """
    work = collectible_in_slices(state)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: dict[tuple[SpaceName, int], set[str]] = done.value
            return found


def collectible_in_slices(
    state: State,
) -> Generator[None, None, dict[tuple[SpaceName, int], set[str]]]:
    """Find the same a slice at a time; nothing may change meanwhile."""
    found: dict[tuple[SpaceName, int], set[str]] = {}
    for place, table in state.tables.items():
        if not DATATYPES_BY_CODE[table.datatype].collectible:
            continue
        keys = iter(table.slots)
        while part := list(islice(keys, _SLICE_KEYS)):
            # Most hold nothing of the kind, which is quicker to tell of many keys at once.
            if _leaves_behind(table, part):
                left = {key for key in part if _leaves_behind(table, (key,))}
                found.setdefault(place, set()).update(left)
            if len(part) == _SLICE_KEYS:
                yield
    return found


def _leaves_behind(table: Table, keys: Iterable[str]) -> bool:
    """Tell whether some keys may hold what is to be collected, as of a segment of their entries."""
    values: list[Any] = []
    fields: list[Field | None] = []
    for key in keys:
        held = table.slots[key]
        for name, slot in held.items() if table.nested else ((None, held),):
            if type(slot) is not Siblings:
                values.append(slot[1])
                fields.append(name)
            else:
                values += [entry[1] for entry in slot]
                fields += [name] * len(slot)
    columns = (fields if table.nested else None, values)
    segment = Segment(table.space, table.datatype, 1, len(values), "", *columns, None, _NOBODY)
    return DATATYPES_BY_CODE[table.datatype].leaves_behind(segment)
