"""Real members on one event loop: drivers, meshes and real or pretended sockets."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from random import Random

from gossip.config import LOCAL, Config
from gossip.driver import Driver
from gossip.effects import Effect, MemberChanged, Remember
from gossip.keyring import Keyring
from gossip.mesh import Mesh
from gossip.messages import Profile, Record, State
from gossip.sealing import SESSION_BYTES, Seal
from gossip.stream_seal import SALT_BYTES, StreamSeal
from gossip.transport.base import FrameSeal, Transport
from gossip.transport.sockets import Sockets

__all__ = ["QUICK", "LiveMember", "plain_streams"]

QUICK: Config = replace(
    LOCAL,
    probe_interval_us=60_000,
    probe_timeout_us=30_000,
    gossip_interval_us=15_000,
    push_pull_interval_us=500_000,
    rejoin_interval_us=200_000,
    exchange_timeout_us=2_000_000,
)
"""A pool in a hurry, for tests in real time."""


def plain_streams(opener: bool) -> FrameSeal:
    return StreamSeal("test", None, secrets.token_bytes(SALT_BYTES), initiator=opener)


class LiveMember:
    """One member, its driver and what it reported."""

    def __init__(
        self,
        member: int,
        *,
        generation: int = 1,
        region: str = "eu",
        transport: Transport | None = None,
        ring: Keyring | None = None,
        config: Config = QUICK,
        remembered: bytes = b"",
    ) -> None:
        self.member = member
        self.generation = generation
        self.region = region
        self.config = config
        self.ring = ring
        self.remembered = remembered
        self.effects: list[Effect] = []
        self.transport = Sockets(self._stream) if transport is None else transport
        self.driver = Driver(self.transport, on_effect=self._happened)
        self.address = ""
        self.mesh: Mesh

    def _stream(self, opener: bool) -> FrameSeal:
        salt = secrets.token_bytes(SALT_BYTES)
        return StreamSeal("test", self.ring, salt, initiator=opener)

    def _happened(self, effect: Effect) -> None:
        self.effects.append(effect)
        if isinstance(effect, Remember):
            self.remembered = effect.peers

    async def start(self, seeds: Iterable[str] = (), listen: str = "127.0.0.1:0") -> LiveMember:
        self.address = await self.driver.open(listen)
        ids = () if self.ring is None else self.ring.ids
        profile = Profile(f"node-{self.member}", self.region, self.address, keys=ids)
        self.mesh = Mesh(
            Record(self.member, self.generation, 0, profile), self.config, self.config,
            Random(self.member), Seal("test", self.ring, secrets.token_bytes(SESSION_BYTES)),
            self.remembered,
        )  # fmt: skip
        self.driver.start(self.mesh, list(seeds))
        return self

    def again(self, transport: Transport | None = None) -> LiveMember:
        """The same member in its next life; not started."""
        return LiveMember(
            self.member, generation=self.generation + 1, region=self.region, ring=self.ring,
            config=self.config, remembered=self.remembered, transport=transport,
        )  # fmt: skip

    def state(self, other: LiveMember) -> State | None:
        view = self.mesh.view(other.member)
        return None if view is None else view.state

    def sees(self, *others: LiveMember) -> bool:
        """Whether these, in the lives that they live, are alive for it."""
        for other in others:
            view = self.mesh.view(other.member)
            if other is not self and (
                view is None
                or view.state is not State.ALIVE
                or view.record.generation != other.generation
            ):
                return False
        return True

    def changes(self, other: LiveMember) -> list[State]:
        return [
            effect.state
            for effect in self.effects
            if isinstance(effect, MemberChanged) and effect.record.member == other.member
        ]
