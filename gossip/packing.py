"""Compound packets: as many messages as fit into a datagram, and never a byte more.

Problem: a packet over the path's size is cut into fragments or lost, and sealing makes it
larger after it was filled.

Idea: the room for messages is what is left of ``packet_bytes`` after the seal, the header
and the longest array header. First go the messages that are meant for the receiver, in
order, in as many packets as they need; the room left in the last is filled from the queue.

Invariant: no packet is above ``packet_bytes`` when sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gossip.broadcast import Queue
from gossip.config import Config
from gossip.errors import TooLarge
from gossip.messages import Message, Referral, Stamp
from gossip.shapes import COUNT_MAXIMUM, UINT64
from gossip.wire import MESSAGES_MAXIMUM, encode_header, encode_message, join_packet

__all__ = ["Packing"]

_ARRAY_HEADER: Final = 3


class Packing:
    """Fills the packets of one pool."""

    def __init__(self, pool: str, config: Config, overhead: int) -> None:
        """``overhead`` is what the seal adds to a packet (``Seal.overhead``)."""
        self._pool = pool
        largest = len(encode_header(pool, Stamp(UINT64, COUNT_MAXIMUM, COUNT_MAXIMUM), UINT64))
        self.room = config.packet_bytes - overhead - largest - _ARRAY_HEADER
        """What one packet has for messages, in bytes, whatever its header says."""

    def packets(
        self,
        sender: Stamp,
        table_hash: int,
        messages: Sequence[Message],
        queue: Queue | None = None,
        members: int = 1,
    ) -> list[bytes]:
        """Return unsealed packets with these messages and what the queue has to tell.

        ``members`` is the size of the pool, for the queue's retransmissions. Without messages
        there is one packet if the queue fills it, else none. Raises ``TooLarge`` for a message
        that fits into no packet; a referral is shortened instead.
        """
        groups: list[list[bytes]] = []
        left = 0
        for message in messages:
            encoded = self._encoded(message)
            if not groups or len(encoded) > left or len(groups[-1]) == MESSAGES_MAXIMUM:
                groups.append([])
                left = self.room
            groups[-1].append(encoded)
            left -= len(encoded)
        if queue:
            if not groups:
                groups, left = [[]], self.room
            groups[-1] += queue.take(left, members, MESSAGES_MAXIMUM - len(groups[-1]))
        header = encode_header(self._pool, sender, table_hash)
        return [join_packet(header, group) for group in groups if group]

    def _encoded(self, message: Message) -> bytes:
        encoded = encode_message(message)
        while len(encoded) > self.room:
            if not isinstance(message, Referral) or not message.addresses:
                raise TooLarge(
                    f"a message of {len(encoded)} bytes does not fit into a packet",
                    hint=f"a packet has room for {self.room}; see packet_bytes",
                    limit=self.room,
                )
            message = Referral(message.region, message.addresses[:-1])
            encoded = encode_message(message)
        return encoded
