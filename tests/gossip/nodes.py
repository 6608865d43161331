"""Nodes of several regions in virtual time: the pool's world, with a ``Mesh`` in every host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, cast

from gossip.config import WAN, Config
from gossip.effects import MemberChanged
from gossip.members import MemberView
from gossip.mesh import Mesh
from gossip.messages import Profile, Record, State
from gossip.sealing import Seal
from gossip.swim import Swim
from tests.gossip.pool import Host, World

__all__ = ["NodeWorld", "mesh_of"]


def mesh_of(host: Host) -> Mesh:
    """The node's machine: the world drives it as it drives a pool, by the same calls."""
    return cast("Mesh", host.swim)


class NodeWorld(World):
    """Members 1 to 99 are of region r0, 100 to 199 of r1, and so on."""

    def __init__(
        self,
        seed: int = 0,
        *,
        wide: Config = WAN,
        seals: Callable[[int], Seal] = lambda _member: Seal.plain("test"),
        **more: Any,
    ) -> None:
        super().__init__(seed, **more)
        self.wide = wide
        self.seals = seals
        self.profiles: dict[int, Profile] = {}

    def host(
        self,
        member: int,
        *,
        address: str = "",
        name: str = "",
        generation: int = 1,
        remembered: bytes = b"",
        config: Config | None = None,
        region: str = "",
    ) -> Host:
        place = address or f"10.0.{member >> 8 & 255}.{member & 255}:7946"
        seal = self.seals(member)
        ring = seal.keyring
        profile = Profile(
            name or f"node-{member}", region or f"r{member // 100}", place,
            keys=ring.ids if ring is not None else (),
        )  # fmt: skip
        mesh = Mesh(
            Record(member, generation, 0, profile), config or self.config, self.wide,
            Random(self.chance.getrandbits(64)), seal, remembered,
        )  # fmt: skip
        return Host(member, place, cast("Swim", mesh), generation, remembered=remembered)

    def begin(self, members: Sequence[int], seeds: Iterable[int] | None = None) -> None:
        """Start these, each seeded with the first (or with ``seeds``)."""
        given = [self.place(seed) for seed in (members[:1] if seeds is None else seeds)]
        for member in members:
            self.start(self.host(member), [one for one in given if one != self.place(member)])
            self.run(50_000)

    def place(self, member: int) -> str:
        return f"10.0.{member >> 8 & 255}.{member & 255}:7946"

    def mesh(self, member: int) -> Mesh:
        return mesh_of(self.hosts[member])

    def views(self, member: int) -> dict[int, MemberView]:
        return {view.record.member: view for view in self.mesh(member).members()}

    def complete(self) -> bool:
        """Whether every running node holds exactly the running nodes for alive."""
        up = {host.member for host in self.running()}
        return all(
            {
                member
                for member, view in self.views(host.member).items()
                if view.state is State.ALIVE
            }
            == up - {host.member}
            for host in self.running()
        )

    def reported(self, member: int) -> dict[int, State]:
        """What the reports of changes add up to."""
        found: dict[int, State] = {}
        for _, change in self.hosts[member].changes:
            if change.gone:
                del found[change.record.member]
            else:
                found[change.record.member] = change.state
        return found

    def changes_of(self, member: int, about: int) -> list[MemberChanged]:
        return [change for _, change in self.hosts[member].changes if change.record.member == about]
