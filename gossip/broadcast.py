"""What is still to be told: a bounded queue that tells the least told first.

Problem: news must reach everybody without being told for ever, a storm of news may neither
grow without bound nor starve the payloads of users, and a payload that arrives by many ways
must be delivered once.

Idea: one slot per member, so that newer news of it replaces older; one slot per user
payload; payloads of the mesh itself (key rings, views) in named slots before those of users.
Everything is passed on at most ``multiplier·⌈log10(n + 1)⌉`` times, the least told first.
Slots lie in one dictionary per count of tellings, oldest first, so that a packet is filled
without sorting. ``Windows`` remembers which payloads were seen: per origin the highest number
of its newest generation, and one bit for each of the 1,024 before it.

Invariants: never more than ``news_slots`` news nor more than ``user_queue_bytes`` of
payloads; the bound holds at the door, and what is dropped for it is counted; a payload is
fresh once.

Source: SWIM, section 4.1; memberlist's TransmitLimitedQueue, whose bound is checked late.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gossip.config import Config
from gossip.errors import TooLarge
from gossip.messages import Alive, Channel, Dead, Suspect, User
from gossip.wire import MESSAGES_MAXIMUM, encode_message

__all__ = ["Queue", "Windows", "retransmit_limit"]

_PASSED_OVER: Final = 16
"""How many slots too large for the rest of a packet are passed over before it is sent."""
_SMALLEST: Final = 6
"""No news is smaller; less room than this is not searched for any."""


def retransmit_limit(multiplier: int, members: int) -> int:
    """Return how often each member passes a piece of news on: multiplier·⌈log10(n + 1)⌉."""
    # ⌈log10(n + 1)⌉ is the number of digits of n.
    return multiplier * len(str(max(1, members)))


@dataclass(slots=True)
class _Slot:
    encoded: bytes
    told: int = 0


class _Lane:
    """Slots by key, told the least told first, oldest first among equals."""

    def __init__(self) -> None:
        self._slots: dict[object, _Slot] = {}
        self._by_told: list[OrderedDict[object, _Slot]] = [OrderedDict()]
        self.octets = 0

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, key: object, encoded: bytes) -> None:
        self.remove(key)
        slot = self._slots[key] = self._by_told[0][key] = _Slot(encoded)
        self.octets += len(slot.encoded)

    def remove(self, key: object) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            del self._by_told[slot.told][key]
            self.octets -= len(slot.encoded)

    def drop_most_told(self) -> None:
        """Drop the oldest of those that were told most often."""
        for bucket in reversed(self._by_told):
            if bucket:
                self.remove(next(iter(bucket)))
                return

    def choose(self, room: int, chosen: dict[object, _Slot], most: int) -> int:
        """Add to ``chosen`` up to ``most`` slots that fit into ``room``; return the room left."""
        passed_over = 0
        for bucket in self._by_told:
            for key, slot in bucket.items():
                if room < _SMALLEST or passed_over == _PASSED_OVER or len(chosen) >= most:
                    return room
                if key in chosen:
                    continue
                if len(slot.encoded) <= room:
                    chosen[key] = slot
                    room -= len(slot.encoded)
                else:
                    passed_over += 1
        return room

    def settle(self, chosen: dict[object, _Slot], limit: int) -> None:
        """Count the chosen as told once more; those at ``limit`` are told out."""
        for key, slot in chosen.items():
            self._told(key, slot, limit)

    def _told(self, key: object, slot: _Slot, limit: int) -> None:
        if slot.told + 1 >= limit:
            self.remove(key)
            return
        del self._by_told[slot.told][key]
        slot.told += 1
        if slot.told == len(self._by_told):
            self._by_told.append(OrderedDict())
        self._by_told[slot.told][key] = slot


class Queue:
    """The broadcasts of one pool."""

    def __init__(self, config: Config, room: int) -> None:
        """``room`` is what one packet has for messages: nothing larger can be queued."""
        self._config = config
        self._room = room
        self._news = _Lane()
        self._own = _Lane()
        self._users = _Lane()
        self.news_slots = 2 * config.members
        self.dropped = 0
        """How many broadcasts were dropped because the queue was full."""

    def __len__(self) -> int:
        return len(self._news) + len(self._own) + len(self._users)

    @property
    def octets(self) -> int:
        """How many encoded bytes are waiting."""
        return self._news.octets + self._own.octets + self._users.octets

    def news(self, message: Alive | Suspect | Dead) -> None:
        """Tell this of its member, in place of whatever was to be told of it.

        Raises ``TooLarge`` where it cannot fit into a packet.
        """
        encoded = self._fitting(encode_message(message))
        stamp = message.record.stamp if isinstance(message, Alive) else message.stamp
        self._news.put(stamp.member, encoded)
        if len(self._news) > self.news_slots:
            self._news.drop_most_told()
            self.dropped += 1

    def forget(self, member: int) -> None:
        """Tell nothing more of that member."""
        self._news.remove(member)

    def user(self, message: User, slot: str = "") -> None:
        """Tell this payload. The mesh's own (``channel`` not ``USER``) name a ``slot``, and
        replace what was in it; users' are told beside each other.

        Raises ``TooLarge`` where it is over ``user_payload_bytes`` or cannot fit into a packet.
        """
        if len(message.payload) > self._config.user_payload_bytes:
            raise TooLarge(
                f"a payload of {len(message.payload)} bytes cannot be broadcast",
                hint=f"the limit is {self._config.user_payload_bytes}; send more over a stream",
                limit=self._config.user_payload_bytes,
            )
        encoded = self._fitting(encode_message(message))
        identity = (message.origin, message.generation, message.number)
        if message.channel is not Channel.USER:
            lane, key = self._own, (slot or identity)
        else:
            lane, key = self._users, identity
        lane.put(key, encoded)
        while lane.octets > self._config.user_queue_bytes:
            lane.drop_most_told()
            self.dropped += 1

    def take(self, room: int, members: int, most: int = MESSAGES_MAXIMUM) -> list[bytes]:
        """Take at most ``most`` encoded messages of at most ``room`` bytes in all, each counted
        as told once more.

        Payloads may claim their share first, the mesh's own before users'; then news; then
        payloads what is left.
        """
        own: dict[object, _Slot] = {}
        users: dict[object, _Slot] = {}
        news: dict[object, _Slot] = {}
        share = room * self._config.user_share_percent // 100
        left = room - share + self._users.choose(self._own.choose(share, own, most), users, most)
        if left == room:
            # A payload larger than the share goes alone, or it would wait out every storm.
            for lane, chosen in ((self._own, own), (self._users, users)):
                if left == room:
                    left = lane.choose(room, chosen, 1)
        left = self._news.choose(left, news, most - len(own) - len(users))
        left = self._own.choose(left, own, most - len(news) - len(users))
        self._users.choose(left, users, most - len(news) - len(own))
        limit = retransmit_limit(self._config.retransmit_multiplier, members)
        taken = []
        for lane, chosen in ((self._own, own), (self._users, users), (self._news, news)):
            lane.settle(chosen, limit)
            taken += [slot.encoded for slot in chosen.values()]
        return taken

    def _fitting(self, encoded: bytes) -> bytes:
        if len(encoded) > self._room:
            raise TooLarge(
                f"a message of {len(encoded)} bytes does not fit into a packet",
                hint=f"a packet has room for {self._room}; see packet_bytes",
                limit=self._room,
            )
        return encoded


@dataclass(slots=True)
class _Seen:
    generation: int
    highest: int
    bits: int
    """Bit i is set where ``highest - i`` was seen."""


class Windows:
    """Which payloads were seen, per origin, bounded in origins and in depth."""

    SPAN: Final = 1_024

    def __init__(self, origins: int) -> None:
        """``origins`` is how many are remembered; the longest silent one makes room."""
        self._origins = origins
        self._seen: OrderedDict[int, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def fresh(self, origin: int, generation: int, number: int) -> bool:
        """Return whether this payload is seen for the first time, and remember it.

        One of an earlier generation, or so old that it is below the window, counts as seen.
        """
        seen = self._seen.get(origin)
        if seen is None or generation > seen.generation:
            self._seen[origin] = _Seen(generation, number, 1)
            self._seen.move_to_end(origin)
            if len(self._seen) > self._origins:
                self._seen.popitem(last=False)
            return True
        self._seen.move_to_end(origin)
        if generation < seen.generation:
            return False
        ahead = number - seen.highest
        if ahead > 0:
            # A shift by the whole distance would be as large as a stranger says.
            seen.bits = ((seen.bits << ahead) & _MASK if ahead < self.SPAN else 0) | 1
            seen.highest = number
            return True
        bit = 1 << -ahead if -ahead < self.SPAN else 0
        if not bit or seen.bits & bit:
            return False
        seen.bits |= bit
        return True


_MASK: Final = (1 << Windows.SPAN) - 1
