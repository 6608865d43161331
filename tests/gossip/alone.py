"""One machine of a pool, and a test in the role of everybody else."""

from __future__ import annotations

from gossip.config import LAN, Config
from gossip.effects import Effect, Exchange, SendDatagram
from gossip.messages import Ack, Alive, Message, Packet, Ping, Profile, Record
from gossip.sealing import Seal
from gossip.swim import Swim
from tests.gossip.pool import SECOND, World

OPENER = Seal.plain("test")


def record(member: int, *, generation: int = 1, address: str = "") -> Record:
    place = address or f"10.1.0.{member}:1"
    return Record(member, generation, 0, Profile(f"m{member}", "here", place))


class Alone:
    """One machine, and the test in the role of everybody else."""

    def __init__(self, config: Config = LAN) -> None:
        self.swim: Swim = World(0, config=config).host(1).swim
        self.sent: list[tuple[str, Message]] = []
        self.effects: list[Effect] = []
        self.now_us = 0
        self._take(self.swim.start(0, SECOND, []))

    def _take(self, effects: list[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, SendDatagram):
                packet = OPENER.open(effect.data)
                self.sent += [(effect.address, message) for message in packet.messages]

    def hear(self, sender: Record, *messages: Message) -> None:
        """Give the machine a packet."""
        packet = Packet("region:here", sender.stamp, 0, messages)
        source = sender.profile.gossip_address
        self._take(self.swim.receive(packet, source, self.now_us, self.now_us + SECOND))

    def wait(self, for_us: int) -> None:
        """Let the machine do what is due meanwhile."""
        end_us = self.now_us + for_us
        while (due_us := self.swim.next_deadline_us()) is not None and due_us <= end_us:
            self.now_us = max(self.now_us, due_us)
            self._take(self.swim.handle_timeout(self.now_us, self.now_us + SECOND))
        self.now_us = end_us

    def meet(self, *others: Record) -> None:
        """Let these be members."""
        for other in others:
            self.hear(other, Alive(other))
        self.sent.clear()

    def refuse_streams(self) -> None:
        """Let every stream that was tried be refused by its host."""
        exchanges = [effect for effect in self.effects if isinstance(effect, Exchange)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, Exchange)]
        for exchange in exchanges:
            self._take(
                self.swim.exchanged(
                    exchange.number, None, self.now_us, self.now_us + SECOND, refused=True
                )
            )

    def probe(self) -> tuple[str, Ping]:
        """Wait for the next regular probe and take it."""
        for _ in range(100):
            for to, one in self.sent:
                if isinstance(one, Ping) and one.target:
                    self.sent.clear()
                    return to, one
            due_us = self.swim.next_deadline_us()
            assert due_us is not None
            self.wait(due_us - self.now_us)
        raise AssertionError("nobody was probed")

    def questions(self) -> list[tuple[str, Ping]]:
        """Take the pings that ask who is there."""
        found = [(to, one) for to, one in self.sent if isinstance(one, Ping) and not one.target]
        self.sent.clear()
        return found

    def answer(self, ping: Ping, by: Record) -> None:
        """Answer a question as that member."""
        self.hear(by, Ack(ping.sequence, by.stamp, SECOND, SECOND), Alive(by))

    def listed(self, member: int) -> Record:
        view = self.swim.view(member)
        assert view is not None
        return view.record
