"""Hypothesis strategies for everything that members say."""

from __future__ import annotations

from hypothesis import strategies as st

from gossip.frames import (
    AckFrame,
    Body,
    Compare,
    Frame,
    PingFrame,
    Records,
    Summary,
    View,
    ViewRequest,
)
from gossip.messages import (
    Ack,
    Alive,
    Channel,
    Coordinate,
    Dead,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Profile,
    Record,
    Referral,
    Stamp,
    State,
    Suspect,
    User,
)
from gossip.shapes import COUNT_MAXIMUM, UINT32, UINT64

uint64 = st.integers(0, UINT64)
counts = st.integers(0, COUNT_MAXIMUM)
members = st.integers(1, UINT64)
names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=16)
hosts = st.sampled_from(["db1", "10.0.0.7", "[2001:db8::1]", "node.eu-west.example"])
addresses = st.builds("{}:{}".format, hosts, st.integers(1, 65_535))
floats = st.floats(allow_nan=False, allow_infinity=False)
stamps = st.builds(Stamp, members, counts, counts)
notes = st.binary(max_size=64)

profiles = st.builds(
    Profile,
    name=names,
    region=names,
    gossip_address=addresses,
    stream_address=st.just("") | addresses,
    protocols=st.tuples(uint64, uint64).map(
        lambda pair: (min(pair) % (UINT32 + 1), UINT32) if pair[0] % 2 else (1, 2)
    ),
    software=names,
    keys=st.lists(st.integers(0, UINT32), max_size=8).map(tuple),
    extra=st.binary(max_size=64),
)
records = st.builds(Record, members, counts, counts, profiles)
coordinates = st.builds(
    Coordinate, st.lists(floats, min_size=1, max_size=16).map(tuple), floats, floats
)
pings = st.builds(Ping, uint64, uint64, st.just("") | addresses, uint64, notes)
acks = st.builds(Ack, uint64, stamps, uint64, uint64, st.none() | coordinates, notes)
referrals = st.builds(Referral, names, st.lists(addresses, max_size=8).map(tuple))
news = st.one_of(
    st.builds(Alive, records), st.builds(Suspect, stamps, members), st.builds(Dead, stamps, members)
)
users = st.builds(
    User,
    members,
    counts,
    st.integers(1, COUNT_MAXIMUM),
    st.binary(max_size=512),
    st.sampled_from(Channel),
)
messages: st.SearchStrategy[Message] = st.one_of(
    pings,
    acks,
    st.builds(Nack, uint64),
    st.builds(PingRequest, uint64, uint64, addresses, st.just("") | addresses),
    news,
    users,
    referrals,
)
pools = st.just("wide") | names.map("region:{}".format)
packets = st.builds(
    Packet, pools, stamps, uint64, st.lists(messages, max_size=20).map(tuple)
)  # fmt: skip

states = st.sampled_from(State)
entries = st.lists(st.tuples(stamps, states), max_size=20, unique_by=lambda said: said[0].member)
said = st.lists(st.tuples(records, states), max_size=8, unique_by=lambda one: one[0].member)
ascending = st.sets(members, max_size=20).map(lambda found: tuple(sorted(found)))
sorted_entries = entries.map(lambda found: tuple(sorted(found)))
sorted_said = said.map(lambda found: tuple(sorted(found, key=lambda one: one[0].member)))
rings = st.binary(max_size=64)
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Compare, uint64, uint64),
    st.builds(Summary, uint64, sorted_entries, rings),
    st.builds(Records, sorted_said, ascending, rings),
    st.builds(PingFrame, pings),
    st.builds(AckFrame, acks, records),
    st.builds(ViewRequest, names, uint64, counts, counts),
    st.builds(
        View, names, members, counts, st.just(COUNT_MAXIMUM), counts, uint64, sorted_said, ascending
    ),
    referrals,
)
frames = st.builds(Frame, pools, stamps, bodies)
