"""The nodes that a client may use: the one that it uses now, and what it has seen.

Problem: a node dies, and another one is there. The client should go on with that one, but
a node that lags behind would show it a world older than the one that it has seen: its own
write would be missing, or a value would go back to the one before.

Idea: whatever a client and its sessions have written or read came with a context; their
union is what the client has *seen*. A node that it has not dealt with just before is asked
to ``wait`` for all of that first, and is used once it has joined it. So read-your-writes
and monotonic reads hold across a change of node. A node that does not get there in its
share of the time is passed over for the next; if none does, calls say ``NotCovered``,
until one has caught up or the client gives up the guarantee: see ``forget_seen``.

A lost node is followed by the others in order of preference, by itself last; rounds are
parted by jittered pauses. Nothing moves back by itself: who was moved stays until the next
loss.

Invariants: a stream that is handed out is connected, and its node has joined all that had
been seen when it was; one attempt at a time is shared by all who wait; whoever waits is
answered at its own deadline.

Session guarantees: Terry et al., "Session Guarantees for Weakly Consistent Replicated
Data"; waiting at the new server for the session's vector is their own implementation.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Final

from crdtmem.causality import Context, VersionVector
from crdtmem.client_address import Address
from crdtmem.client_stream import Stream, anew
from crdtmem.client_transport import open_stream
from crdtmem.errors import (
    Closed,
    ConfigError,
    CrdtmemError,
    MalformedFrame,
    NotCovered,
    Overloaded,
    Unreachable,
)
from crdtmem.limits import Limits
from crdtmem.operations import decode_context, encode_context

__all__ = ["Nodes", "Pauses"]

_FIRST_PAUSE_MS: Final = 20
_LONGEST_PAUSE_MS: Final = 1_000
_LEAST_SHARE_MS: Final = 100
_LEAST_PATIENCE_MS: Final = 1_000
"""A busy node on a busy machine may be silent for less."""

_LONE_PATIENCE_MS: Final = 10_000

_PASSING = (Closed, NotCovered, Overloaded, Unreachable)
"""What time may mend: a node that is gone, stopping, busy or behind."""

_log = logging.getLogger("crdtmem.client")


class Pauses:
    """The pauses between attempts at one thing: jittered, each twice the last, to a deadline."""

    __slots__ = ("_deadline_s", "_pause_ms")

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._pause_ms = _FIRST_PAUSE_MS

    async def after(self, error: CrdtmemError) -> None:
        """Wait, as long as an overloaded node asks for; raises ``error`` where time is up."""
        loop = asyncio.get_running_loop()
        pause_s = self._pause_ms * random.uniform(0.5, 1.5) / 1_000  # noqa: S311 - jitter
        self._pause_ms = min(2 * self._pause_ms, _LONGEST_PAUSE_MS)
        asked_ms = error.details.get("retry_after_ms")
        if isinstance(asked_ms, int | float) and asked_ms >= 0:
            # Not before the time, and not all at once.
            pause_s = asked_ms * random.uniform(1.0, 1.5) / 1_000  # noqa: S311 - jitter
        if loop.time() + pause_s > self._deadline_s:
            raise error
        await asyncio.sleep(pause_s)


class Nodes:
    """One client's nodes. ``timeout_ms`` bounds a search among them."""

    def __init__(self, addresses: Sequence[Address], *, timeout_ms: int, seen: Context) -> None:
        if timeout_ms < 1:
            raise ConfigError("a client's time-out is at least 1 ms", hint="leave it out: 10 s")
        self.addresses = addresses
        self.timeout_ms = timeout_ms
        self.seen = seen.vector.copy()
        self.limits = Limits()
        self.region = ""
        self.replica_id = 0
        self.closed = False
        self._index = 0
        self._stream: Stream | None = None
        self._settled = False
        self._attempt: asyncio.Future[Stream] | None = None
        self._refusal: CrdtmemError | None = None
        # A search comes round to every node, and to the first of them once more.
        count = len(addresses)
        self._cover_ms = max(_LEAST_SHARE_MS, timeout_ms // (count + 1))
        self._open_ms = timeout_ms if count == 1 else self._cover_ms
        # Where there is no other node, a silent one is only connected to again: no hurry.
        lone_ms = max(_LONE_PATIENCE_MS, 3 * timeout_ms)
        self._patience_ms = lone_ms if count == 1 else max(_LEAST_PATIENCE_MS, self._cover_ms)

    async def open(self) -> None:
        """Make the first connection; raises at once where no node can be used."""
        await self._round()

    async def close(self) -> None:
        """End the connection; calls that are under way raise ``Closed``. Idempotent."""
        self.closed = True
        self._settled = False
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close(_closed())

    @property
    def are_several(self) -> bool:
        """Whether there is another node to go to."""
        return len(self.addresses) > 1

    @property
    def is_seeking(self) -> bool:
        """Whether a node is being sought now."""
        return self._attempt is not None

    # ------------------------------------------------------------------ what was seen

    def saw(self, vector: Mapping[int, int]) -> None:
        """Note what an answer of the node in use has shown."""
        if not self.seen.dominates(vector):
            self.seen.join(vector)

    def saw_elsewhere(self, vector: Mapping[int, int], replica_id: int) -> None:
        """Note what another node has shown, such as the one that a feed comes from."""
        if not self.seen.dominates(vector):
            self.seen.join(vector)
            if replica_id != self.replica_id:
                self._settled = False

    def forget_seen(self) -> None:
        """Take the next node as it is, older or not."""
        self.seen = VersionVector()
        if self._attempt is not None:
            self._attempt.cancel()

    # ------------------------------------------------------------------ streams

    @property
    def current(self) -> Stream | None:
        """The stream that ``live`` returns at once; ``None`` where one has to be sought."""
        stream = self._stream
        return stream if stream is not None and self._settled and not stream.lost else None

    async def live(self, deadline_s: float) -> Stream:
        """Return a live stream to a node that holds all that was seen.

        Connects again if need be, until the deadline. Raises ``Closed``, ``Unreachable``,
        ``NotCovered``, ``Overloaded``, or what every node refuses with.
        """
        loop = asyncio.get_running_loop()
        pauses = Pauses(deadline_s)
        while True:
            if self.closed:
                raise _closed()
            stream = self.current
            if stream is not None:
                return stream
            if self._attempt is None:
                # One attempt is shared by all who wait; whoever gives up leaves it to the others.
                self._attempt = asyncio.ensure_future(self._connect(deadline_s))
                self._attempt.add_done_callback(self._attempted)
            attempt = self._attempt
            done, _ = await asyncio.wait({attempt}, timeout=max(0.0, deadline_s - loop.time()))
            if self.closed:
                raise _closed()
            if not done:
                raise self._why_not()
            if attempt.cancelled():
                continue
            error = attempt.exception()
            if error is None:
                return attempt.result()
            # The attempt had the deadline of whoever began it; this one's may be later.
            if not isinstance(error, _PASSING):
                raise anew(error) if isinstance(error, CrdtmemError) else error
            await pauses.after(anew(error))

    async def apart(self, deadline_s: float) -> Stream:
        """Return a connection of its own to the node in use; raises what ``live`` does."""
        pauses = Pauses(deadline_s)
        while True:
            stream = await self.live(deadline_s)
            address = self.addresses[self._index]
            try:
                return await open_stream(
                    address, timeout_ms=self._open_ms, patience_ms=self._patience_ms
                )
            except (Unreachable, Overloaded) as error:
                if isinstance(error, Unreachable) and self.are_several:
                    # A node that stands still keeps the connections that it has.
                    stream.drop(anew(error))
                await pauses.after(error)

    async def leave(self, stream: Stream, deadline_s: float) -> None:
        """Go to another node from one that is stopping; wait for its end where there is none."""
        if self.are_several:
            stream.drop(Unreachable(f"the node at {stream.shown} is stopping", hint="retry"))
        else:
            await stream.wait_lost(deadline_s)

    def _why_not(self) -> CrdtmemError:
        """Return the error of the last round, once more."""
        if self._refusal is not None:
            return anew(self._refusal)
        return Unreachable(f"no node answers at {self._shown()}", hint="is one of them running?")

    def _shown(self) -> str:
        return ", ".join(map(str, self.addresses))

    def _attempted(self, attempt: asyncio.Future[Stream]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is not None:
            _log.debug("connecting to %s failed: %s", self._shown(), attempt.exception())

    async def _connect(self, deadline_s: float) -> Stream:
        self._refusal = None
        pauses = Pauses(deadline_s)
        if self.are_several and self._stream is not None and self._stream.lost:
            # Everybody who used that node comes to the next one now.
            await asyncio.sleep(random.uniform(0, _FIRST_PAUSE_MS) / 1_000)  # noqa: S311
        while True:
            try:
                return await self._round()
            except _PASSING as error:
                await pauses.after(error)

    async def _round(self) -> Stream:
        """Try each node once."""
        refusals: list[CrdtmemError] = []
        for index in self._order():
            try:
                return await self._try(index)
            except CrdtmemError as error:
                refusals.append(error)
                self._refusal = _sum_up(refusals)
        assert self._refusal is not None
        raise self._refusal

    def _order(self) -> list[int]:
        """Return the nodes in order of preference: the lost one is the last to be tried."""
        stream = self._stream
        others = [index for index in range(len(self.addresses)) if index != self._index]
        if stream is None:
            return list(range(len(self.addresses)))
        return [*others, self._index] if stream.lost else [self._index, *others]

    async def _try(self, index: int) -> Stream:
        former = self._stream
        if former is not None and not former.lost and index == self._index:
            await self._cover(former)
            self._settled = True
            return former
        stream = await open_stream(
            self.addresses[index], timeout_ms=self._open_ms, patience_ms=self._patience_ms
        )
        try:
            replica_id, region, limits = _introduced(stream)
            if replica_id != self.replica_id or not self._settled:
                await self._cover(stream)
        except BaseException:
            await stream.close(_closed())
            raise
        self._index, self._stream, self._settled = index, stream, True
        self.replica_id, self.region, self.limits = replica_id, region, limits
        if former is not None:
            former.drop(Unreachable("the client uses another node now", hint="retry"))
        return stream

    async def _cover(self, stream: Stream) -> None:
        """Wait until a node has joined all that was seen, also what is seen meanwhile."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._cover_ms / 1_000
        joined = VersionVector()
        while not joined.dominates(self.seen):
            left_ms = max(0, int((deadline_s - loop.time()) * 1_000))
            seen = Context(self.seen.copy())
            body = (encode_context(seen), left_ms)
            try:
                # The node watches the time; this side only does not wait for ever.
                answer = await stream.call("wait", body, deadline_s + self._cover_ms / 1_000)
            except NotCovered as error:
                raise NotCovered(
                    f"the node {stream.shown} has not joined all that this client has seen",
                    hint="wait until the nodes that it comes from are back; or, to go on with an "
                    "older state, call forget_seen()",
                    context=str(seen),
                ) from error
            context = decode_context(answer)
            if context is None:
                raise MalformedFrame("the node answered no context", hint="is it a newer one?")
            joined = context.vector


def _introduced(stream: Stream) -> tuple[int, str, Limits]:
    """Return what a node's greeting tells: its replica id, region and limits."""
    greeting = stream.greeting
    try:
        return int(greeting["replica"]), str(greeting["region"]), Limits(**greeting["limits"])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedFrame(
            f"the node's greeting has the wrong shape: {error}", hint="is it newer?"
        ) from error


def _closed() -> Closed:
    return Closed("this client was closed", hint="connect again")


def _sum_up(refusals: Sequence[CrdtmemError]) -> CrdtmemError:
    """Return the one error of a round in which no node could be used.

    A node that answers but is behind tells more than one that is gone, and what time
    does not mend counts only where nothing else is left to wait for.
    """
    if len(refusals) == 1:
        return refusals[0]
    for kind in (NotCovered, Overloaded):
        for refusal in refusals:
            if isinstance(refusal, kind):
                return refusal
    passing = [refusal for refusal in refusals if isinstance(refusal, _PASSING)]
    if not passing:
        return refusals[0]
    told = "; ".join(refusal.message for refusal in refusals)
    return Unreachable(f"no node can be used: {told}", hint="is one of them running?")
