"""An address such as ``::1:7000`` was taken off the wire; it says neither host nor port, and the
dialler of the program above ended on it."""

from __future__ import annotations

import pytest

from gossip.errors import Malformed
from gossip.shapes import address
from gossip.transport.base import split_address


@pytest.mark.parametrize(
    "place", ["::1:7000", "fe80::1:7000", "[::1:7000", "::1]:7000", "a:b:7000"]
)
def test_an_ipv6_host_without_brackets_is_refused(place: str) -> None:
    with pytest.raises(Malformed):
        address(place)


@pytest.mark.parametrize("place", ["[::1]:7000", "[2001:db8::1]:7946", "10.0.0.1:1", "name:65535"])
def test_what_is_taken_can_be_dialled(place: str) -> None:
    assert split_address(address(place))[1]
