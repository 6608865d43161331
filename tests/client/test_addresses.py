"""What names a node, and what does not."""

from __future__ import annotations

import pytest

from crdtmem.client_address import Address, parse_address, parse_addresses
from crdtmem.errors import ConfigError


@pytest.mark.parametrize(
    ("node_url", "path", "socket_url"),
    [
        ("unix:///run/node.sock", "/run/node.sock", ""),
        ("node.sock", "node.sock", ""),
        ("/a b/ü.sock", "/a b/ü.sock", ""),
        ("http://localhost:7480", "", "ws://localhost:7480/v1/socket"),
        ("http://localhost:7480/", "", "ws://localhost:7480/v1/socket"),
        ("http://proxy/memory", "", "ws://proxy/memory/v1/socket"),
        ("http://[::1]:7480", "", "ws://[::1]:7480/v1/socket"),
        ("ws://127.0.0.1:7480", "", "ws://127.0.0.1:7480/v1/socket"),
        ("ws://127.0.0.1:7480/v1/socket", "", "ws://127.0.0.1:7480/v1/socket"),
    ],
)
def test_an_address_names_a_node(node_url: str, path: str, socket_url: str) -> None:
    assert parse_address(node_url) == Address(node_url, path=path, socket_url=socket_url)


@pytest.mark.parametrize(
    "node_url",
    [
        "", "unix://", "http://", "http://:80", "http://host:port", "http://host:99999",
        "ftp://host/x", "https://host", "http://host?x=1", "http://user:word@host", "ws://[::1",
        "tcp://127.0.0.1:7420", "unix:///a\0b", "a\ud800.sock", "unix:///" + "a" * 5_000,
    ],
)  # fmt: skip
def test_what_names_no_node_is_refused_with_a_hint(node_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(node_url)
    assert "unix:///" in caught.value.hint


def test_a_client_takes_each_node_once_and_not_too_many() -> None:
    urls = ("unix:///a", "unix:///b", "unix:///a")
    assert [address.path for address in parse_addresses(urls)] == ["/a", "/b"]
    for wrong in ((), tuple(f"unix:///{number}" for number in range(65))):
        with pytest.raises(ConfigError):
            parse_addresses(wrong)
