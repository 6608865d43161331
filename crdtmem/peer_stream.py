"""One sealed stream to another node: TCP below, the engine's bytes above.

Problem: whoever can reach a node's port must not be able to read, write or stall anything,
and a link that breaks or hangs must cost neither memory nor attention.

Idea: a small asyncio protocol. Both sides say hello (``gossip.stream_seal``); a stream is
announced to the engine only when the other side has proven that it holds the cluster's key.
The first bytes say what a connection is for: one that is for the mesh is handed over, so
that a node needs one port only.

Invariants: a stream that was announced as opened is announced as lost once; nothing is
read from who has not proven the key but a hello and a proof, of bounded size, within
``SILENT_S``; what is written and not yet taken is bounded, or the stream is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final, Protocol, cast

from crdtmem.errors import CrdtmemError, Overloaded, Unreachable
from crdtmem.sync_greeting import DUPLICATE
from crdtmem.wall import now_us
from gossip.errors import GossipError
from gossip.stream_seal import EMBEDDER, MESH, PREFIX_BYTES, StreamSeal, purpose_of

__all__ = ["SILENT_S", "PeerStream", "StreamOwner"]

SILENT_S: Final = 10.0
"""How long a connection may take to prove itself and to say its first word."""

_log = logging.getLogger("crdtmem.peers")


class StreamOwner(Protocol):
    """Who makes streams and is told of them."""

    buffer_bytes: int

    def seal(self, *, initiator: bool) -> StreamSeal:
        """Return a fresh seal for one stream."""

    def admits(self, stream: PeerStream) -> bool:
        """Count a connection; tells whether there may be one more."""

    def opened(self, stream: PeerStream) -> bool:
        """Announce a proven stream; tells whether it may stay."""

    def received(self, stream: PeerStream, data: bytes) -> None:
        """Hand on what it brought."""

    def lost(self, stream: PeerStream) -> None:
        """Announce its end, whether or not its beginning was."""

    def adopt(self, transport: asyncio.Transport, received: bytes) -> bool:
        """Take over a connection that is for the mesh; tells whether there is one here."""


class PeerStream(asyncio.Protocol):
    """One TCP stream, in either direction. ``dialled`` is the address, if we opened it."""

    def __init__(self, owner: StreamOwner, number: int, dialled: str | None) -> None:
        self._owner = owner
        self.number = number
        self.dialled = dialled
        self.address = dialled or ""
        self.connected_at_us = now_us()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.error: str | None = None
        self.duplicate = False
        self.open = False
        self.greeted = False
        self.ended = asyncio.Event()
        self._seal: StreamSeal | None = None
        self._unread = b""
        self._handed_over = False
        self._silence: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare the socket; who dialled speaks first."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)
        if not self._owner.admits(self):
            transport.abort()
            return
        _prepare(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(high=self._owner.buffer_bytes)
        name = transport.get_extra_info("peername")
        if self.dialled is None and name:
            self.address = f"{name[0]}:{name[1]}"
        self._silence = asyncio.get_running_loop().call_later(SILENT_S, self._still_silent)
        if self.dialled is not None:
            self._begin(initiator=True)

    def data_received(self, data: bytes) -> None:
        """Open what came, and hand it to the engine."""
        self.received_bytes += len(data)
        if self._seal is None:
            data = self._unread + data
            self._unread = b""
            if not self._take_purpose(data):
                return
        assert self._seal is not None
        was_ready = self._seal.ready
        try:
            frames = self._seal.receive(data)
        except GossipError as error:
            self.drop(Unreachable(f"no stream of this cluster: {error.args[0]}", hint=_HINT))
            return
        if self._seal.ready and not was_ready:
            self._transport.write(self._seal.prove())
        if self._seal.proven and not self.open:
            # Open before it is announced: the engine's first effect is to send.
            self.open = True
            if not self._owner.opened(self):
                self.open = False
                self._transport.abort()
                return
        if frames:
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None
            if self.open:
                self._owner.received(self, frames[0] if len(frames) == 1 else b"".join(frames))

    def pause_writing(self) -> None:
        """Drop a peer that takes nothing, although it granted credit."""
        self.drop(
            Overloaded(
                f"the peer left over {self._owner.buffer_bytes} bytes untaken",
                hint="it will connect again and ask for what it lacks",
            )
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        if self._silence is not None:
            self._silence.cancel()
        if self._handed_over:
            return
        if self.error is None and error is not None:
            self.error = str(error)
        self._owner.lost(self)
        self.ended.set()

    # ------------------------------------------------------------------ the owner's side

    @property
    def key(self) -> int | None:
        """Which key of the ring seals it, as far as that is settled."""
        return None if self._seal is None else self._seal.key

    def send(self, data: bytes) -> None:
        """Write bytes, sealed."""
        assert self._seal is not None
        sealed = self._seal.seal(data)
        self.sent_bytes += len(sealed)
        self._transport.write(sealed)

    def drop(self, error: CrdtmemError) -> None:
        """End the stream at once, and remember why."""
        if self.error is None:
            self.error = str(error)
            _log.info("stream to %s dropped: %s", self.address, error)
        self._transport.abort()

    def finish(self, error: CrdtmemError) -> None:
        """End the stream after what is written has gone out: it may say why."""
        if self.error is None:
            self.error = str(error)
            self.duplicate = error.details.get("reason") == DUPLICATE
            level = logging.DEBUG if self.duplicate else logging.INFO
            _log.log(level, "stream to %s ended: %s", self.address, error)
        self._transport.close()

    def end_after_all(self, error: CrdtmemError) -> None:
        """Write no more, and let the other end it once it has read everything.

        A socket that is closed while the other still sends is reset, and with that goes what
        the other has not read yet.
        """
        if self.error is None:
            self.error = str(error)
        if self.open and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.abort()

    # ------------------------------------------------------------------ inside

    def _begin(self, *, initiator: bool) -> None:
        self._seal = self._owner.seal(initiator=initiator)
        self._transport.write(self._seal.hello())

    def _take_purpose(self, data: bytes) -> bool:
        """See what an accepted connection is for; tells whether it is for the engine."""
        if len(data) < PREFIX_BYTES:
            self._unread = data
            return False
        purpose = purpose_of(data)
        if purpose == EMBEDDER:
            self._begin(initiator=False)
            return True
        if purpose == MESH and self._hand_over(data):
            return False
        self.drop(Unreachable("whoever connected is no node of this version", hint=_HINT))
        return False

    def _hand_over(self, data: bytes) -> bool:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._handed_over = self._owner.adopt(self._transport, data)
        if self._handed_over:
            self._owner.lost(self)
            self.ended.set()
        return self._handed_over

    def _still_silent(self) -> None:
        self._silence = None
        self.drop(Unreachable("the peer said nothing", hint="is it a node of this cluster?"))


_HINT: Final = "nodes of one cluster share its name, its key ring and the program's version"


def _prepare(connection: Any) -> None:
    """Small frames leave at once; a peer that vanished is noticed within a minute."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
