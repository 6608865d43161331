"""A node's place in the mesh: its region's pool and, if it is a gateway, the wide-area pool.

Problem: probing everybody across oceans is slow, dear and full of false alarms; but every node
should know every member.

Idea: two tiers of one and the same machine (``Swim``). All nodes of a region are one pool. Its
gateways (see ``topology``) also form one pool with those of the other regions. The active
gateway of a region announces its view of it there, and announces the other regions' views at
home; whoever lacks one fetches it (``regions``). A packet or frame says which pool it is for; at
the wrong pool's door the knocker is told where its own is.

What is believed of a member comes from the nearest source: its own pool, the wide-area pool, the
view of its region. Where no gateway of a region is heard any more, its members are suspect.

Invariants: one port and one seal serve both pools; exchanges of both and of the views have
distinct numbers; a change is reported once, whichever source it came from; who has entered the
wide-area pool stays in it until it stops, because leaving is final for a generation (duties
move, places do not: of n members that come one by one, about 2·ln n are ever elected).

Source: Consul's LAN and WAN pools; the views are this project's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gossip.beliefs import Beliefs
from gossip.config import Config
from gossip.doors import WIDE, Doors
from gossip.effects import (
    Annotated,
    Answer,
    Deliver,
    Effect,
    Exchange,
    MemberChanged,
    Remember,
    Warn,
)
from gossip.errors import Rejected, UnknownMember
from gossip.frame_wire import decode_frame, encode_frame
from gossip.frames import Frame, ViewRequest
from gossip.members import MemberView
from gossip.memory import Memory
from gossip.messages import Channel, Profile, Record, Referral, State
from gossip.referrals import new_addresses
from gossip.regions import Regions
from gossip.rotation import Rotation
from gossip.sealing import Seal
from gossip.swim import Swim
from gossip.topology import Standing, gateways, peers_to_stream, standing_of, standing_of_me
from gossip.viewing import Viewing

if TYPE_CHECKING:
    from random import Random

__all__ = ["WIDE", "Mesh", "local_pool"]

_LOCAL, _FAR, _VIEWS = range(3)
_DOUBTED = (State.SUSPECT, State.DEAD)


def local_pool(region: str) -> str:
    """Return the tag of a region's pool."""
    return f"region:{region}"


class Mesh:
    """One node. Inputs return effects, in the order in which they must happen."""

    def __init__(
        self,
        me: Record,
        local: Config,
        wide: Config,
        chance: Random,
        seal: Seal,
        remembered: bytes = b"",
    ) -> None:
        """``local`` and ``wide`` say how the two pools behave; ``remembered`` is what the last
        ``Remember`` of an earlier life held, or nothing."""
        self.counters: Counter[str] = Counter()
        self._chance = chance
        self._seal = seal
        self._config = local
        self._wide_config = wide
        self._memory = Memory(remembered, self.counters)
        self._local = Swim(
            me, local_pool(me.profile.region), local, chance, seal, self._memory[_LOCAL]
        )
        self._wide: Swim | None = None
        seal.doubts = self._lives_otherwise
        self._regions = Regions(me.profile.region, local.members, chance)
        self._beliefs = Beliefs(self._local, self._regions)
        self._viewing = Viewing(self._beliefs, self._regions, local, chance, self.counters)
        self._doors = Doors(
            self._beliefs, self._regions, self._viewing, self._memory, seal, local, chance
        )
        self._rotation = Rotation(seal.keyring, self.counters)
        self._annotation = b""
        self._running = False
        self._candidate_us: int | None = None

    # ------------------------------------------------------------------ inputs

    def start(self, now_us: int, wall_us: int, seeds: Sequence[str]) -> list[Effect]:
        """Begin: the seeds are addresses of any members, of whatever region."""
        self._running = True
        self._doors.named(seeds)
        self._doors.look_soon(now_us)
        self._viewing.start(now_us)
        effects = self._from(_LOCAL, self._local.start(now_us, wall_us, seeds), now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    def receive_datagram(self, data: bytes, source: str, now_us: int, wall_us: int) -> list[Effect]:
        """Take one datagram. Whatever is wrong with it is counted, and changes nothing."""
        if not self._running:
            return []
        try:
            packet = self._seal.open(data, self._config)
        except Rejected as error:
            self.counters[f"datagrams refused: {type(error).__name__}"] += 1
            return []
        swim = self._pool(packet.pool)
        if swim is None:
            return [*self._doors.refer(packet, source, now_us)]
        swim.counters.bytes_received += len(data)
        effects: list[Effect] = []
        for message in packet.messages:
            if isinstance(message, Referral):
                effects += self._referred(message, now_us, wall_us)
        effects += self._from(
            self._kind(swim), swim.receive(packet, source, now_us, wall_us), now_us, wall_us
        )
        return self._settled(effects, now_us, wall_us)

    def receive_stream(self, stream: Any, frame: bytes, now_us: int, wall_us: int) -> list[Effect]:
        """Take a stream's one frame; among the effects is its one ``Answer``, unless refused."""
        if not self._running:
            return []
        try:
            asked = decode_frame(frame, self._config)
        except Rejected as error:
            self.counters[f"frames refused: {type(error).__name__}"] += 1
            return []
        if isinstance(asked.body, ViewRequest):
            return self._viewing.answer(stream, asked, asked.body)
        swim = self._pool(asked.pool)
        if swim is None:
            referral = self._doors.referral(asked.pool, now_us, streamed=True)
            return [] if referral is None else [self._answer(stream, asked.pool, referral)]
        answered = swim.receive_frame(stream, asked, now_us, wall_us)
        effects = self._from(self._kind(swim), answered, now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    def exchanged(
        self,
        number: int,
        frame: bytes | None,
        now_us: int,
        wall_us: int,
        *,
        refused: bool = False,
    ) -> list[Effect]:
        """Take how an exchange ended: its answer, or ``None``; ``refused`` if the host said so."""
        number, kind = divmod(number, 3)
        effects: list[Effect] = []
        body = None
        if frame is not None:
            try:
                body = decode_frame(frame, self._config).body
            except Rejected as error:
                self.counters[f"frames refused: {type(error).__name__}"] += 1
                frame = None
        if isinstance(body, Referral):
            effects += self._referred(body, now_us, wall_us)
            frame = None
        if kind == _VIEWS:
            effects += self._numbered(self._viewing.exchanged(number, body, now_us))
            if self._wide is None:
                effects += self._memory.keep_abroad(self._regions.doors())
        else:
            swim = self._local if kind == _LOCAL else self._wide
            if swim is not None:
                ended = swim.exchanged(number, frame, now_us, wall_us, refused=refused)
                effects += self._from(kind, ended, now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    def handle_timeout(self, now_us: int, wall_us: int) -> list[Effect]:
        """Do what is due. Calling it early is harmless."""
        effects: list[Effect] = []
        for kind, swim in self._swims():
            due_us = swim.next_deadline_us()
            if due_us is not None and due_us <= now_us:
                effects += self._from(kind, swim.handle_timeout(now_us, wall_us), now_us, wall_us)
        fetches, told = self._viewing.handle_timeout(now_us)
        effects += self._numbered(fetches)
        for swim, those in told:
            effects += self._from(self._kind(swim), those, now_us, wall_us)
        if self._doors.due(now_us):
            effects += self._bring_doors(now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` is due, if ever."""
        due = [swim.next_deadline_us() for _, swim in self._swims()]
        due += [self._viewing.next_deadline_us(), self._doors.next_deadline_us()]
        if self._running and self._wide is None:
            due.append(self._candidate_us)
        return min((at for at in due if at is not None), default=None)

    # ------------------------------------------------------------------ commands

    def join(self, addresses: Sequence[str], now_us: int, wall_us: int) -> list[Effect]:
        """Seek more members at these addresses."""
        effects = self._each(lambda swim: swim.join(addresses, now_us, wall_us), now_us, wall_us)
        self._doors.named(addresses)
        if self._running:
            self._doors.look_soon(now_us)
        return effects

    def leave(self, now_us: int, wall_us: int) -> list[Effect]:
        """Say farewell, in both pools, and be silent from then on."""
        # First, so that no duty is taken up on the way out.
        self._running = False
        self._viewing.stop()
        self._doors.stop()
        return self._each(lambda swim: swim.leave(now_us, wall_us), now_us, wall_us)

    def remember(self, now_us: int, wall_us: int) -> list[Effect]:
        """Say now what is to be remembered, if it has changed; a farewell does so too."""
        return self._each(lambda swim: swim.remember(now_us), now_us, wall_us)

    def broadcast(self, payload: bytes, now_us: int, wall_us: int = 0) -> list[Effect]:
        """Tell the members of one's own region; best effort. Raises ``TooLarge``."""
        effects = self._local.broadcast(payload, now_us)
        return self._settled(self._from(_LOCAL, effects, now_us, wall_us), now_us, wall_us)

    def annotate(self, annotation: bytes) -> None:
        """Let this ride on every probe and its answer. Raises ``TooLarge``."""
        self._local.annotate(annotation)
        self._annotation = annotation
        if self._wide is not None:
            self._wide.annotate(annotation)

    def update(self, profile: Profile, now_us: int, wall_us: int = 0) -> list[Effect]:
        """Say something new of oneself. The region cannot change. Raises ``TooLarge``."""
        self._viewing.own_changed(now_us)
        return self._each(lambda swim: swim.update(profile, now_us), now_us, wall_us)

    def forget(self, member: int, now_us: int, wall_us: int = 0) -> list[Effect]:
        """List and seek a member no longer. Raises ``UnknownMember``."""
        known = [kind for kind, swim in self._swims() if swim.knows(member)]
        if not known and self._regions.row(member) is None:
            raise UnknownMember(f"no member {member:016x} is known here", member=member)
        self._regions.forget(member)
        self._beliefs.touch([member])
        effects: list[Effect] = []
        for kind, swim in self._swims():
            if kind in known:
                effects += self._from(kind, swim.forget(member, now_us), now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    # ------------------------------------------------------------------ what is known

    @property
    def me(self) -> Record:
        """One's own record, as the own region has it."""
        return self._local.me

    @property
    def is_gateway(self) -> bool:
        """Whether this node sits in the wide-area pool."""
        return self._wide is not None

    def members(self) -> list[MemberView]:
        """Return everybody else, with the tier that the word of each comes from."""
        return self._beliefs.all()

    def view(self, member: int) -> MemberView | None:
        """Return what is believed of one member."""
        return self._beliefs.of(member)

    def gateways(self, region: str) -> tuple[int, ...]:
        """Return a region's gateways as seen from here: the active one, then the warm one."""
        return gateways(self._standings(), region)

    def peers_to_stream(self) -> set[int]:
        """Return the members that this node should hold a stream with."""
        return peers_to_stream(standing_of_me(self.me), self._standings())

    def pool_counters(self) -> dict[str, Any]:
        """Return the counters of each pool by its tag."""
        return {swim.pool: swim.counters for _, swim in self._swims()}

    def _standings(self) -> list[Standing]:
        return [standing_of_me(self.me), *map(standing_of, self.members())]

    # ------------------------------------------------------------------ effects of the pools

    def _each(
        self, command: Callable[[Swim], list[Effect]], now_us: int, wall_us: int
    ) -> list[Effect]:
        effects: list[Effect] = []
        for kind, swim in self._swims():
            effects += self._from(kind, command(swim), now_us, wall_us)
        return self._settled(effects, now_us, wall_us)

    def _from(
        self, kind: int, effects: Sequence[Effect], now_us: int, wall_us: int
    ) -> list[Effect]:
        """Pass a pool's effects on: what is the node's own business is taken out."""
        passed: list[Effect] = []
        for effect in effects:
            match effect:
                case Exchange(number):
                    passed.append(replace(effect, number=3 * number + kind))
                case MemberChanged(record):
                    self._beliefs.touch([record.member])
                    if kind == _FAR:
                        passed += self._numbered(self._viewing.gateway_changed(effect, now_us))
                        if effect.state is State.ALIVE:
                            # A neighbour, met abroad first, is sought at home; others are not.
                            place = Referral(
                                record.profile.region, (record.profile.gossip_address,)
                            )
                            passed += self._referred(place, now_us, wall_us)
                    else:
                        self._near_changed(effect, now_us)
                        if self._wide is not None and effect.state in _DOUBTED:
                            looked = self._wide.look_at(record.member, now_us, wall_us)
                            passed += self._from(_FAR, looked, now_us, wall_us)
                case Annotated(member):
                    if kind == _LOCAL or self._local.view(member) is None:
                        passed.append(effect)
                case Deliver(origin, payload, Channel.VIEWS):
                    swim = self._local if kind == _LOCAL else self._wide
                    assert swim is not None, "only pools that exist have effects"
                    passed += self._numbered(self._viewing.hear(swim, origin, payload, now_us))
                case Deliver(_, payload, Channel.KEYS):
                    # What was new here may be new to the other pool.
                    if self._rotation.take(payload, wall_us):
                        passed += self._tell_ring(payload, now_us, wall_us, but=kind)
                case Remember(peers):
                    passed.append(self._memory.keep(kind, peers))
                case Warn():
                    tag = WIDE if kind == _FAR else self._local.pool
                    passed.append(replace(effect, details={**effect.details, "pool": tag}))
                case _:
                    passed.append(effect)
        return passed

    def _near_changed(self, change: MemberChanged, now_us: int) -> None:
        self._viewing.own_changed(now_us)
        elected = self._viewing.gateways
        if len(elected) < 2 or change.record.member <= elected[-1]:
            # Of whoever has a higher id than both, nothing changes the election.
            self._viewing.gateways = self._elect()
            self._doors.look_soon(now_us)
        if change.previous is None or change.previous > State.SUSPECT:
            # A newcomer has heard no announcement yet.
            self._viewing.announce_soon(now_us, all_again=True)

    def _numbered(self, effects: Sequence[Effect]) -> list[Effect]:
        """Number the exchanges of the views apart from those of the pools."""
        return [
            replace(effect, number=3 * effect.number + _VIEWS)
            if isinstance(effect, Exchange)
            else effect
            for effect in effects
        ]

    def _settled(self, effects: list[Effect], now_us: int, wall_us: int) -> list[Effect]:
        """Report what is believed differently now, and take up a duty that is due."""
        effects += self._ring_changed(now_us, wall_us)
        effects += self._stand_for_election(now_us, wall_us)
        return effects + self._beliefs.changes()

    # ------------------------------------------------------------------ the key ring

    def install_key(self, key: bytes, now_us: int, wall_us: int) -> list[Effect]:
        """Add a key to every member's ring, so that it can be used. Raises ``KeyringError``."""
        return self._tell_ring(self._rotation.install(key), now_us, wall_us)

    def use_key(self, number: int, now_us: int, wall_us: int) -> list[Effect]:
        """Seal with a key from now on, everywhere. Raises ``KeyringError``, for instance while a
        live member does not hold it."""
        return self._tell_ring(self._rotation.use(number, self.members()), now_us, wall_us)

    def remove_key(
        self, number: int, now_us: int, wall_us: int, *, compromised: bool = False
    ) -> list[Effect]:
        """Remove a key from every ring. Raises ``KeyringError``, for instance while a live
        member seals with another than the primary. See ``Keyring.remove``."""
        said = self._rotation.remove(number, self.members(), wall_us, compromised=compromised)
        return self._tell_ring(said, now_us, wall_us)

    def _tell_ring(
        self, said: bytes, now_us: int, wall_us: int, *, but: int | None = None
    ) -> list[Effect]:
        effects: list[Effect] = []
        for kind, swim in self._swims():
            if kind != but:
                told = swim.broadcast(said, now_us, channel=Channel.KEYS)
                effects += self._from(kind, told, now_us, wall_us)
        return effects if but is not None else self._settled(effects, now_us, wall_us)

    def _ring_changed(self, now_us: int, wall_us: int) -> list[Effect]:
        """However the ring changed: keep it, and say which keys one holds."""
        changed = self._rotation.changed(self.me.profile, wall_us)
        if changed is None:
            return []
        effects: list[Effect] = [changed[0]]
        if changed[1] is not None:
            for kind, swim in self._swims():
                effects += self._from(kind, swim.update(changed[1], now_us), now_us, wall_us)
            self._viewing.own_changed(now_us)
        return effects

    # ------------------------------------------------------------------ duties

    def _elect(self) -> tuple[int, ...]:
        mine = self.me.profile.region
        near = map(standing_of, self._local.members())
        return gateways([standing_of_me(self.me), *near], mine)

    def _stand_for_election(self, now_us: int, wall_us: int) -> list[Effect]:
        """Enter the wide-area pool once one's election has held for a while."""
        if not self._running or self._wide is not None:
            return []
        if not self._viewing.gateways:
            self._viewing.gateways = self._elect()
        if self.me.member not in self._viewing.gateways:
            self._candidate_us = None
            return []
        if self._candidate_us is None:
            # Whoever has just started knows nobody, and would elect itself.
            self._candidate_us = now_us + 2 * self._config.probe_timeout_us
        if now_us < self._candidate_us:
            return []
        self._wide = self._beliefs.far = Swim(
            self.me, WIDE, self._wide_config, self._chance, self._seal, self._memory[_FAR],
            spared=self.me.profile.region,
        )  # fmt: skip
        self._wide.annotate(self._annotation)
        self._viewing.announce_soon(now_us)
        effects = self._wide.start(now_us, wall_us, self._doors.seeds)
        doors = [place for _, place in self._regions.doors()]
        effects += self._wide.join(doors, now_us, wall_us, hearsay=True)
        return self._from(_FAR, effects, now_us, wall_us)

    def _lives_otherwise(self, member: int, generation: int) -> bool:
        """Whether one's own pool, where it is probed, has the member in an earlier life: a claim
        in the wide-area pool must not shut it out of both."""
        view = self._local.view(member)
        if view is None or view.state > State.SUSPECT:
            return False
        return view.record.generation < generation

    # ------------------------------------------------------------------ the wrong door

    def _bring_doors(self, now_us: int, wall_us: int) -> list[Effect]:
        """Bring the ways abroad that one knows to those who go there."""
        if self._wide is None:
            return [*self._doors.told()]
        return self._referred(self._doors.colleagues(), now_us, wall_us)

    def _referred(self, referral: Referral, now_us: int, wall_us: int) -> list[Effect]:
        """Knock where one was told to, if that is for a pool of one's own."""
        kind, swim = (_FAR, self._wide) if not referral.region else (_LOCAL, self._local)
        if swim is None or referral.region not in ("", self.me.profile.region):
            return []
        living = [view.record for view in swim.members() if view.state <= State.SUSPECT]
        new = new_addresses(referral, [self.me, *living])
        return self._from(kind, swim.join(new, now_us, wall_us, hearsay=True), now_us, wall_us)

    # ------------------------------------------------------------------ small things

    def _swims(self) -> list[tuple[int, Swim]]:
        far = [] if self._wide is None else [(_FAR, self._wide)]
        return [(_LOCAL, self._local), *far]

    def _pool(self, tag: str) -> Swim | None:
        if tag == self._local.pool:
            return self._local
        return self._wide if tag == WIDE else None

    def _kind(self, swim: Swim) -> int:
        return _LOCAL if swim is self._local else _FAR

    def _answer(self, stream: Any, pool: str, body: Referral) -> Answer:
        return Answer(stream, encode_frame(Frame(pool, self.me.stamp, body), self._config))
