"""Nothing is there that was never written.

Problem: an entry may have the right dot and the wrong value, place or stamp: bytes that went
wrong on their way, a column that slipped by one, a snapshot that mixes up its origins.

Idea: at a few drawn moments and at the end every entry of a state is compared, place, value
and stamp, with the delta of its dot as its writer's disk had it. And once for every batch: each
transaction is somebody's, it writes no place that its client did not name, and no origin
writes one operation twice.

Invariants: the origin's bytes are the truth; ids with several histories are left out.
"""

from __future__ import annotations

from crdtmem.batch import SpaceName
from crdtmem.crdt import DATATYPES
from crdtmem.entries import SEQUENCE_BITS, unpack_dot
from crdtmem.policy import SYSTEM_SPACE, policy_key
from crdtmem.rescue import RESCUE_PREFIX
from crdtmem.retries import RETRY_PREFIX
from simulations.checkers.base import Checker, Tail
from simulations.history import Call, History, Written
from simulations.node import Machine
from simulations.world import World

__all__ = ["Unwritten"]

_OWN = (RETRY_PREFIX, RESCUE_PREFIX)
_FULL_LOOKS = 0.002


class Unwritten(Checker):
    """See the module."""

    name = "unwritten"
    about = "every entry is what somebody wrote, where it was written, and was asked for once"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._new_batches = Tail(history.log)
        self._asked: dict[bytes, Call] = {}
        self._new_calls = Tail(history.calls)
        self._done: set[tuple[int, bytes]] = set()

    def published(self, machine: Machine) -> None:
        """Look at what is new, once; at a whole state, rarely."""
        self._look_at_log()
        if self.is_drawn(_FULL_LOOKS):
            self._look_at_state(machine)

    def finished(self) -> None:
        """Look at every state."""
        self._look_at_log()
        for machine in self.world.up():
            self._look_at_state(machine)

    # ------------------------------------------------------------------ states

    def _look_at_state(self, machine: Machine) -> None:
        history = self.history
        for table, key, field, (dot, value, stamp) in machine.engine.state.entries():
            if dot >> SEQUENCE_BITS in history.forked:
                continue
            found = history.delta(dot)
            if found is None:
                raise self.fail(f"{unpack_dot(dot)} at {key!r} was never written", machine)
            segment, at = found
            name = segment.keys if type(segment.keys) is str else segment.keys[at]
            place = None if segment.fields is None else segment.fields[at]
            if place == 0 and type(place) is int:
                place = dot
            ours = (table.space, table.datatype, key, field)
            theirs = (segment.space, segment.datatype, name, place)
            if ours != theirs or segment.values is None:
                words = f"{unpack_dot(dot)} was written at {theirs}, and is held at {ours}"
                raise self.fail(words, machine)
            written = segment.values[at]
            # As text: 1 and True are equal, and not a number is not equal to itself.
            if repr(written) != repr(value) or stamp != segment.stamp:
                words = (
                    f"{unpack_dot(dot)} at {key!r} was written as {written!r:.80} by "
                    f"{segment.stamp}, and is held as {value!r:.80} by {stamp}"
                )
                raise self.fail(words, machine)

    # ------------------------------------------------------------------ batches

    def _look_at_log(self) -> None:
        for call in self._new_calls:
            if call.operation_id is not None:
                self._asked[call.operation_id] = call
        for batch in self._new_batches:
            for written in self.history.transactions(batch):
                name = written.operation_id
                if name is not None and not name.startswith(_OWN):
                    self._look_at(written, name)

    def _look_at(self, written: Written, name: bytes) -> None:
        call = self._asked.get(name)
        dot = unpack_dot(written.first)
        if call is None:
            raise self.fail(f"nobody asked for {dot}, operation {name!r}")
        if (dot.replica, name) in self._done:
            raise self.fail(f"{dot} is operation {name!r} of {dot.replica:016x} a second time")
        self._done.add((dot.replica, name))
        allowed = _places(call)
        for segment in written.segments:
            keys = {segment.keys} if type(segment.keys) is str else set(segment.keys)
            if segment.space == SYSTEM_SPACE and "r" in written.metadata:
                # A rescue says of what: see ``crdtmem.rescue``.
                keys = {key for key in keys if not key.startswith("rescued:")}
            if not keys <= allowed.get((segment.space, segment.datatype), set()):
                words = f"{dot} writes {sorted(keys)} of {segment.space}, which was not asked for"
                raise self.fail(words)


def _places(call: Call) -> dict[tuple[SpaceName, int], set[str]]:
    """Return the keys that a step may write, by space and datatype."""
    arguments = call.step.arguments
    found: dict[tuple[SpaceName, int], set[str]] = {}
    for space, datatype, key, *_ in arguments.get("operations", ()):
        found.setdefault((tuple(space), DATATYPES[datatype].code), set()).add(key)
    if call.step.kind == "policy":
        code = DATATYPES["register"].code
        key = policy_key(tuple(arguments["space"]))
        found.setdefault((SYSTEM_SPACE, code), set()).add(key)
    elif "key" in arguments:
        kind = "bounded_counter" if call.step.kind == "transfer" else "document"
        space = tuple(arguments["space"])
        found.setdefault((space, DATATYPES[kind].code), set()).add(arguments["key"])
    return found
