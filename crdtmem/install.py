"""Installations: another replica's state, or a difference to it, joined as a whole.

Problem: below the sync log a peer's state arrives instead of its batches. It
must be joined by dots at the two vectors, atomically, whatever was written or
joined here meanwhile; it must be durable before it is visible; and a restart
must come to the same state from the log.

Idea: the join of two whole states needs no tombstones. With vectors L here and
V there, an entry survives iff both hold it, or its one holder's peer has never
joined its dot. Three kinds of ``Installation`` say this with what they have:

* ``WHOLE``: the other state, complete at V.
* ``DIFFERENCE``: what set reconciliation found between L0, our vector when it
  began, and V: dots to drop, entries to add, and the batches published there
  after V, up to the header's vector, which are joined in the same step. Entries
  that arrived here between L0 and now are judged by ``wanted``: all that was
  live at V beyond L0.
* ``CORRECTION``: what repair decided upon evidence, at equal vectors: entries
  to restore and dots to drop, though the vectors cover them. It holds at that
  very vector only, and does nothing at any other; repair then begins again.

Its durable form is a run of *markers*, one per chunk, in one commit. Recovery
feeds them to an ``Assembler`` in log order and installs again what comes out.

Invariants: installing is idempotent; nothing covered by the local vector is
brought back to life except by a correction; the vector that results covers
exactly what was joined.

How states are joined, a slice at a time, is ``merging``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from crdtmem.batch import Batch, SpaceName, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.derived import collectible_in_slices
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from crdtmem.errors import MalformedFrame
from crdtmem.flight import Flight
from crdtmem.merging import Merge, add_entries, drop_entries, late_dots, merge_states
from crdtmem.snapshot import (
    SnapshotHeader,
    decode_header,
    encode_chunks,
    encode_header,
    load_chunk,
)
from crdtmem.table import Shape, State

__all__ = [
    "Assembler",
    "Installation",
    "InstallationStage",
    "Kind",
    "dots_from_flat",
    "flat_dots",
]

_MARKER_VERSION: Final = 1
_DOTS_PER_PART: Final = 50_000

Tips = Mapping[int, tuple[int, bytes]]


class Kind(IntEnum):
    """How an installation's content is to be read."""

    WHOLE = 0
    DIFFERENCE = 1
    CORRECTION = 2


@dataclass(slots=True)
class Installation:
    """Something to be joined as a whole, through a flight of its own.

    ``state`` holds the entries (all, or those to add); ``header.vector`` is what is
    covered afterwards besides our own vector. For a ``DIFFERENCE``, ``base`` is
    L0, ``compared`` V, ``wanted`` the dots live at V beyond L0, ``dropped`` the dots to drop, and
    ``batches`` lead from V to the header's vector. A ``CORRECTION`` has ``state``
    and ``dropped`` only; its header's vector is the one at which it was decided.
    """

    kind: Kind
    header: SnapshotHeader
    state: State
    base: VersionVector = field(default_factory=VersionVector)
    compared: VersionVector = field(default_factory=VersionVector)
    wanted: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    batches: list[Batch] = field(default_factory=list)
    # Where it holds what is to be collected one day: known once it has been staged.
    collectible: dict[tuple[SpaceName, int], set[str]] = field(default_factory=dict)

    def overlay(self, local: State) -> Merge:
        """Return the join upon ``local``, at its vector, as an overlay to publish."""
        merge = Merge(local)
        for _ in self.work(merge):
            pass
        return merge

    def work(self, merge: Merge) -> Iterator[None]:
        """Stage the join, a slice at a time."""
        local = merge.state
        if self.kind is Kind.WHOLE:
            yield from merge_states(merge, self.state)
        elif self.kind is Kind.DIFFERENCE:
            yield from self._join_difference(merge)
        elif local.vector == self.header.vector:
            # What was decided at one vector says nothing of any other.
            yield from drop_entries(merge, self.dropped)
            yield from add_entries(merge, self.state, None)
        yield from merge.settle()
        self.collectible = yield from collectible_in_slices(self.state)

    def _join_difference(self, merge: Merge) -> Iterator[None]:
        local = merge.state
        arrived = {
            replica: (self.base.get(replica, 0), last)
            for replica, last in local.vector.meet(self.compared).items()
            if last > self.base.get(replica, 0)
        }
        late: set[int] = set()
        if arrived:
            # What arrived since is judged by what was live at the vector that was compared.
            yield from late_dots(local, arrived, late)
        yield from drop_entries(merge, self.dropped | (late - self.wanted))
        yield from add_entries(merge, self.state, local.vector)
        for batch in self.batches:
            if batch.header.last > local.vector.get(batch.header.replica, 0):
                for segment in batch.segments:
                    merge.join(segment)
                yield

    def vector(self, local: Mapping[int, int]) -> VersionVector:
        """Return the vector after installing upon a state at ``local``."""
        vector = VersionVector(local)
        if self.kind is not Kind.CORRECTION:
            vector.join(self.header.vector)
        return vector

    def tips(self, local: Tips) -> dict[int, tuple[int, bytes]]:
        """Return the tips after installing upon a state whose tips are ``local``."""
        tips = dict(local)
        if self.kind is not Kind.CORRECTION:
            for replica, tip in self.header.tips.items():
                if tip[0] > tips.get(replica, (0, b""))[0]:
                    tips[replica] = tip
        return tips

    def markers(self) -> Iterator[bytes]:
        """Yield the durable form, to be appended in one commit, in order."""
        parts: list[tuple[str, Any]] = []
        parts += [("chunk", chunk) for chunk in encode_chunks(self.state)]
        for name, dots in (("wanted", self.wanted), ("dropped", self.dropped)):
            listed = sorted(dots)
            for start in range(0, len(listed), _DOTS_PER_PART):
                parts.append((name, flat_dots(listed[start : start + _DOTS_PER_PART])))
        parts += [("batch", batch.data) for batch in self.batches]
        head = (encode_header(self.header), self.base.flat(), self.compared.flat())
        yield pack((_MARKER_VERSION, "install", int(self.kind), len(parts), *head))
        for part in parts:
            yield pack((_MARKER_VERSION, *part))


class Assembler:
    """Puts installations together again from markers, in log order."""

    def __init__(self, shapes: dict[int, Shape], known_fields: Mapping[int, bool]) -> None:
        self._shapes = shapes
        self._known_fields = known_fields
        self._building: Installation | None = None
        self._missing = 0

    def feed(self, marker: bytes) -> Installation | None:
        """Take the next marker; returns an installation once it is whole.

        Raises ``MalformedFrame`` for anything that ``markers`` does not write.
        """
        try:
            return self._feed(unpack(marker))
        except (TypeError, ValueError, IndexError) as error:
            raise MalformedFrame(f"a snapshot marker with the wrong shape: {error}") from error

    def _feed(self, body: Any) -> Installation | None:
        version, name, *rest = body
        if version != _MARKER_VERSION:
            raise ValueError(f"version {version!r} of a marker")
        if name == "install":
            kind, missing, header, base, compared = rest
            self._building = Installation(
                Kind(kind),
                decode_header(header),
                State(self._shapes),
                VersionVector.from_flat(base),
                VersionVector.from_flat(compared),
            )
            self._missing = missing
        else:
            self._part(name, *rest)
        if self._missing:
            return None
        done, self._building = self._building, None
        if done is not None:
            done.state.vector = done.header.vector.copy()
        return done

    def _part(self, name: str, content: Any) -> None:
        building = self._building
        if building is None:
            raise ValueError(f"a {name!r} part without its beginning")
        if name == "chunk":
            load_chunk(building.state, content)
        elif name == "wanted":
            building.wanted.update(dots_from_flat(content))
        elif name == "dropped":
            building.dropped.update(dots_from_flat(content))
        elif name == "batch":
            building.batches.append(decode_batch(content, known_fields=self._known_fields))
        else:
            raise ValueError(f"a part called {name!r}")
        self._missing -= 1


def flat_dots(dots: Iterable[int]) -> list[Any]:
    """Return sorted dots as ``[[replica, step, step, …], …]``: sequences as differences."""
    runs: list[list[int]] = []
    previous = -1
    for dot in dots:
        if not runs or dot >> SEQUENCE_BITS != previous >> SEQUENCE_BITS:
            runs.append([dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK])
        else:
            runs[-1].append(dot - previous)
        previous = dot
    return runs


def dots_from_flat(runs: Any) -> list[int]:
    """Return the dots of ``flat_dots``; raises ``ValueError`` or ``TypeError`` for no such list."""
    dots: list[int] = []
    for replica, *steps in runs:
        if set(map(type, (replica, *steps))) != {int} or not 0 < replica <= SEQUENCE_MASK:
            raise ValueError("a list of dots is malformed")
        dot = replica << SEQUENCE_BITS
        for step in steps:
            dot += step
            if step < 1 or dot >> SEQUENCE_BITS != replica:
                raise ValueError("a list of dots is malformed")
            dots.append(dot)
    return dots


# ------------------------------------------------------------------ staging


class InstallationStage:
    """An installation on its way into a flight, a slice at a time.

    The state that it stands on must not change meanwhile: no other flight may publish.
    Should it be replaced all the same, ``stands_on`` says so, and it has to begin again.
    """

    def __init__(self, installation: Installation, state: State) -> None:
        self._installation = installation
        self._merge = Merge(state)
        self._digests, self._vector = state.digests, state.vector.copy()
        self._work = installation.work(self._merge)

    def stands_on(self, installation: Installation, state: State) -> bool:
        """Tell whether this is the stage of an installation upon what a state is now."""
        return (
            self._installation is installation
            and self._digests is state.digests
            and self._vector == state.vector
        )

    def step(self, tips: Tips) -> Flight | None:
        """Do the next slice; returns the flight once there is no other."""
        if next(self._work, self) is None:
            return None
        installation = self._installation
        flight = Flight(self._merge, installation.vector(self._vector))
        flight.markers = installation.markers()
        flight.tips = installation.tips(tips)
        flight.installation = installation
        return flight
