"""Referrals: few addresses, those of members first, and of those who knocked before."""

from __future__ import annotations

from collections import Counter

from gossip.messages import Profile, Record, Referral
from gossip.referrals import ADDRESSES, Referrals, new_addresses

SECOND = 1_000_000


def record(number: int) -> Record:
    return Record(number, 1, 0, Profile(f"n{number}", "eu", f"10.0.0.{number}:7"))


def test_members_come_first_then_the_latest_knockers() -> None:
    referrals = Referrals(Counter())
    assert referrals.to("eu", [], 0, knocker="a:1") is None
    assert referrals.to("eu", [], 1, knocker="b:1") == Referral("eu", ("a:1",))
    assert referrals.to("us", [], 1, knocker="c:1") is None
    assert referrals.to("eu", [record(1)], 2, knocker="a:1") == Referral(
        "eu", ("10.0.0.1:7", "b:1")
    )
    assert referrals.to("eu", [], 3) == Referral("eu", ("a:1", "b:1"))
    assert referrals.to("eu", [], 61 * SECOND) is None, "a knock is forgotten after a minute"


def test_addresses_and_knocks_are_bounded() -> None:
    referrals = Referrals(Counter())
    for number in range(100):
        referrals.to("eu", [], number * SECOND // 10, knocker=f"a:{number + 1}")
    found = referrals.to("eu", [record(number) for number in range(1, 4)], 11 * SECOND)
    assert found is not None
    assert len(found.addresses) == ADDRESSES
    assert found.addresses[:4] == ("10.0.0.1:7", "10.0.0.2:7", "10.0.0.3:7", "a:100")
    for number in range(200):
        referrals.to(f"r{number}", [], 12 * SECOND, knocker="a:1")
    assert len(referrals._knocks) == 64


def test_referrals_per_second_are_bounded() -> None:
    counters: Counter[str] = Counter()
    referrals = Referrals(counters)
    told = [referrals.to("eu", [record(1)], 5 * SECOND + number) for number in range(500)]
    assert sum(one is not None for one in told) == counters["referrals"] == 50
    assert referrals.to("eu", [record(1)], 6 * SECOND) is not None


def test_only_new_addresses_are_knocked_at() -> None:
    referral = Referral("eu", ("10.0.0.1:7", "10.0.0.2:7"))
    assert new_addresses(referral, [record(1)]) == ["10.0.0.2:7"]
