"""Whatever is sent to a machine: no exception but the protocol's own, and no growth.

Four tests share them: 20,000 datagrams and frames in the default run, a million in the slow.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from gossip.agenda import Agenda
from gossip.errors import Malformed, Rejected
from gossip.frame_wire import decode_frame
from gossip.keyring import Keyring
from gossip.mesh import Mesh
from gossip.messages import Record, State
from gossip.sealing import Seal
from gossip.stream_seal import HELLO_BYTES, StreamSeal
from gossip.swim import Swim
from gossip.wire import decode_packet
from tests.gossip.hostile import (
    HOSTILE_ADDRESS,
    KEY,
    SMALL,
    Hostile,
    Pool,
    address,
    one_pool,
    two_regions,
    weight,
)

_EVERY = pytest.mark.parametrize(
    "count", [5_000, pytest.param(250_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])]
)


@_EVERY
def test_decoders_and_seals_raise_what_they_say_and_keep_nothing(count: int) -> None:
    """Every way of making bytes, against every way of reading them."""
    chance = Random(5)
    pool = Pool(3, SMALL, seed=5)
    hostile = Hostile(chance, pool)
    receiver = Seal("c", Keyring([KEY]), b"r" * 16, members=32)
    taken = refused = 0
    for _ in range(count // 4):
        for read, data in (
            (lambda one: receiver.open(one, SMALL), hostile.noise()),
            (lambda one: receiver.open(one, SMALL), hostile.sealed(hostile.packet())),
            (lambda one: decode_packet(one, SMALL), chance.randbytes(chance.randrange(60))),
            (lambda one: decode_frame(one, SMALL), hostile.broken_frame()),
        ):
            try:
                read(data)
                taken += 1
            except Rejected:
                refused += 1
    assert taken > count // 20
    assert refused > count // 4
    assert receiver.sessions <= 4 * 32


@_EVERY
def test_streams_raise_what_they_say_and_keep_nothing(count: int) -> None:
    """Streams of altered and made-up records, in pieces."""
    chance = Random(6)
    whole = failed = 0
    for _ in range(count // 5):
        ring = None if chance.random() < 0.3 else Keyring([KEY])
        one = StreamSeal("c", ring, chance.randbytes(16), initiator=True, frame_bytes=1_000)
        other = StreamSeal("c", ring, chance.randbytes(16), initiator=False, frame_bytes=1_000)
        one.receive(other.hello())
        sent = bytearray(one.hello())
        for _ in range(chance.randrange(4)):
            sent += one.seal(chance.randbytes(chance.choice([0, 10, 999])))
        if chance.random() < 0.7:
            at = chance.randrange(len(sent))
            sent[at : at + chance.randrange(5)] = chance.randbytes(chance.randrange(5))
        try:
            at = 0
            while at < len(sent):
                end = at + chance.choice([1, 7, 100, 5_000])
                whole += len(other.receive(bytes(sent[at:end])))
                at = end
                assert other.buffered <= (1_000 + 4 + 16 if other.proven else HELLO_BYTES)
        except Rejected:
            failed += 1
            assert other.buffered == 0
    assert whole > count // 20
    assert failed > count // 20


def _attack(pool: Pool, hostile: Hostile, target: int) -> None:
    """Send one thing of any kind, and let a little time pass now and then."""
    chance = hostile.chance
    choice = chance.randrange(10)
    # A datagram's source is whatever its sender writes there.
    source = chance.choice([HOSTILE_ADDRESS, *map(address, pool.machines)])
    if choice < 5:
        pool.datagram(target, hostile.sealed(hostile.packet()), source)
    elif choice < 7:
        pool.datagram(target, hostile.noise(), source)
    elif choice < 8:
        pool.stream(target, hostile.frame())
    elif choice < 9:
        pool.stream(target, hostile.broken_frame())
    if pool.asked:
        member, exchange = pool.asked.pop()
        answers = [hostile.answer_frame(exchange.frame), hostile.frame(), hostile.broken_frame()]
        pool.answered(member, exchange.number, chance.choice([None, *answers]))
    while pool.caught:
        member, data = pool.caught.pop()
        answer = hostile.answer(data)
        if answer is not None:
            pool.datagram(member, answer, source)
    if chance.random() < 0.2:
        pool.advance(chance.choice([1, 1_000, 50_000, 200_000]))


def _agendas(machine: Swim | Mesh) -> list[Agenda[tuple[str, int]]]:
    pools = [machine] if isinstance(machine, Swim) else [swim for _, swim in machine._swims()]
    return [swim._pool.agenda for swim in pools]


@_EVERY
@pytest.mark.parametrize("make", [one_pool, two_regions])
def test_a_machine_takes_whatever_a_member_sends_and_does_not_grow(
    make: Callable[..., object], count: int
) -> None:
    """The attacker holds the key: everything well-formed goes through to the protocol."""
    pool = Pool(3 if make is one_pool else 6, SMALL, 7, make)
    hostile = Hostile(Random(7), pool)
    machine = pool.machines[1]
    held = []
    for at in range(count // 2):
        _attack(pool, hostile, 1)
        for agenda in _agendas(machine):
            assert len(agenda._heap) <= 2 * len(agenda) + 64
        if at in (count // 4, count // 2 - 1):
            held.append(weight(machine))
    half, end = held
    grown = {
        path: (half.get(path, 0), number)
        for path, number in end.items()
        # Tables fill up to their bounds and breathe within them. A heap of deadlines breathes
        # between one and two entries per key: it is held to that above, and here are its keys.
        if path != "Agenda._heap" and number > 1.5 * half.get(path, 0) + 8 * SMALL.members
    }
    assert not grown
    living = [view for view in machine.members() if view.state <= State.SUSPECT]
    pools = 1 if make is one_pool else 3
    assert len(living) <= pools * SMALL.members
    assert len(machine.members()) <= pools * 4 * SMALL.members


@_EVERY
def test_from_without_the_key_nothing_is_changed(count: int) -> None:
    """A stranger sends noise, alterations, replays, and packets sealed with a key of its own."""
    pool = Pool(3, SMALL, seed=8)
    hostile = Hostile(Random(8), pool, key=b"z" * 32)
    machine = pool.machines[1]
    before = len(pool.events)
    members = machine.members()
    sessions = [one._seal.sessions for one in pool.machines.values()]
    for _ in range(count // 2):
        pool.datagram(1, hostile.noise(), HOSTILE_ADDRESS)
        pool.datagram(1, hostile.sealed(hostile.packet()), HOSTILE_ADDRESS)
        if hostile.chance.random() < 0.01:
            pool.advance(20_000)
    pool.advance(5_000_000)
    assert len(pool.events) == before
    assert [view.record for view in machine.members()] == [view.record for view in members]
    assert [one._seal.sessions for one in pool.machines.values()] == sessions


def _near(first: dict[int, Record], one: int, other: int) -> bool:
    """Whether they probe each other; of another region one knows what its gateways say."""
    return first[one].profile.region == first[other].profile.region


@pytest.mark.parametrize("make", [one_pool, two_regions])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_member_can_neither_evict_nor_impersonate_a_live_one(
    make: Callable[..., object], seed: int
) -> None:
    """It says of the others whatever it likes, to all of them; they go on answering."""
    pool = Pool(3 if make is one_pool else 6, SMALL, seed, make)
    hostile = Hostile(Random(seed), pool)
    first = {member: machine.me for member, machine in pool.machines.items()}
    before = len(pool.events)
    for _ in range(2_000):
        target = hostile.chance.choice(list(pool.machines))
        _attack(pool, hostile, target)
    pool.advance(120_000_000)
    for who, change in pool.events[before:]:
        about = change.record.member
        if about in pool.machines and _near(first, who, about):
            assert change.state <= State.SUSPECT, (who, change)
            assert not change.gone, (who, change)
            assert change.record.generation == 1, (who, change)
            profile = change.record.profile
            true = first[about].profile
            assert (profile.name, profile.region) == (true.name, true.region), (who, change)
            assert profile.gossip_address == true.gossip_address, (who, change)
            assert profile.stream_address == true.stream_address, (who, change)
    for member, machine in pool.machines.items():
        for other in pool.machines:
            if other != member and _near(first, member, other):
                view = machine.view(other)
                assert view is not None
                assert view.state is State.ALIVE, (member, view)


def test_a_malformed_ring_changes_nothing() -> None:
    ring = Keyring([KEY])
    chance = Random(9)
    state = bytearray(ring.state())
    before = ring.dump()
    for _ in range(2_000):
        altered = bytearray(state)
        altered[chance.randrange(len(altered))] = chance.randrange(256)
        if altered == state:
            continue
        try:
            ring.merge(bytes(altered), 1)
        except Malformed:
            assert ring.dump() == before
        else:
            # Well-formed, as by a member: whatever it says, a key stays.
            assert ring.primary.material == KEY
            ring = Keyring.load(before)
