"""A node's effects and frames show up in traces and assertions; those that carry a key ring
showed its keys. And comparing tables that differed in nothing but the ring sent all records."""

from __future__ import annotations

from random import Random

from gossip.config import LAN
from gossip.effects import Exchange, KeyringChanged
from gossip.frame_wire import decode_frame, encode_frame
from gossip.frames import Frame, Records, Summary
from gossip.keyring import Keyring
from gossip.messages import Profile, Record, Stamp
from gossip.sealing import Seal
from gossip.swim import Swim

KEY = bytes(range(65, 97))


def test_no_repr_shows_a_key() -> None:
    ring = Keyring([KEY])
    bodies = (Summary(1, (), ring.state()), Records((), (), ring.state()))
    frames = [Frame("region:r", Stamp(1, 1, 0), body) for body in bodies]
    for value in (KeyringChanged(ring.dump()), *bodies, *frames):
        assert "ABCDEFGH" not in repr(value)


def test_where_only_the_rings_differ_no_records_are_sent() -> None:
    me = Record(1, 1, 0, Profile("one", "r", "10.0.0.1:1"))
    swim = Swim(me, "region:r", LAN, Random(1), Seal("c", Keyring([KEY]), bytes(16)))
    swim.start(0, 0, [])
    swim._exchanges.compare("10.0.0.2:1")
    other = Keyring([KEY, bytes(32)])
    number = swim._exchanges._number
    answer = Frame("region:r", Stamp(2, 1, 0), Summary(swim.table_hash, (), other.state()))
    effects = swim.exchanged(number, encode_frame(answer, LAN), 1, 1)
    frames = [
        decode_frame(effect.frame, LAN).body for effect in effects if isinstance(effect, Exchange)
    ]
    sent = [body for body in frames if isinstance(body, Records)]
    assert len(sent) == 1
    assert sent[0].ring
    assert sent[0].entries == ()
