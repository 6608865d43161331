"""Where a node is: the URLs that a client takes, and what they mean.

Problem: the same program talks to a sidecar over a Unix socket today and to a node over
HTTP tomorrow; a URL that is nearly right must be refused where it is written, with the
right one beside it.

Idea: two kinds of address. ``unix:///path``, or a bare path, is a control socket;
``http://HOST:PORT`` or ``ws://HOST:PORT`` a node's HTTP port, whose WebSocket carries the
same frames. A URL of HTTP names the node, so ``/v1/socket`` is added to it; one of
``ws://`` that has a path is taken as it is.

Invariants: parsing touches nothing; an address prints as the URL that it was given as.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from crdtmem.errors import ConfigError

__all__ = ["SOCKET_ROUTE", "Address", "parse_address", "parse_addresses"]

SOCKET_ROUTE: Final = "/v1/socket"
"""Where a node's HTTP port serves the WebSocket."""

_MOST_ADDRESSES: Final = 64
_PATH_BYTES: Final = 107
_HINT: Final = "write unix:///path/to/crdtmem.sock, or http://HOST:PORT of a node that serves HTTP"


@dataclass(frozen=True, slots=True)
class Address:
    """One node's address: a Unix path, or the URL of a WebSocket; the other one is empty."""

    url: str
    path: str = ""
    socket_url: str = ""

    def __str__(self) -> str:
        return self.path or self.url


def parse_address(node_url: str) -> Address:
    """Return the address that a URL, or a bare path, names. Raises ``ConfigError``."""
    scheme, separator, rest = node_url.partition("://")
    if not separator or scheme == "unix":
        path = rest if separator else node_url
        _check_path(path)
        return Address(node_url, path=path)
    if scheme in ("http", "ws"):
        return Address(node_url, socket_url=_socket_url(node_url))
    raise ConfigError(f"{node_url!r:.200} names no node", hint=_HINT)


def _check_path(path: str) -> None:
    try:
        taken = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path!r:.200} is no path: {error}", hint=_HINT) from error
    if "\0" in path or not 0 < taken <= _PATH_BYTES:
        raise ConfigError(
            f"{path!r:.200} is no path of a socket: it takes 1 to {_PATH_BYTES} bytes", hint=_HINT
        )


def _socket_url(node_url: str) -> str:
    try:
        parts = urlsplit(node_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{node_url!r:.200} is no URL: {error}", hint=_HINT) from error
    if not host or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(f"{node_url!r:.200} is no URL of a node", hint=_HINT)
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    if parts.scheme == "http" or not path:
        path += SOCKET_ROUTE
    return f"ws://{shown}{'' if port is None else f':{port}'}{path}"


def parse_addresses(node_urls: tuple[str, ...]) -> tuple[Address, ...]:
    """Return the addresses of one client, each once, in order. Raises ``ConfigError``."""
    if not 0 < len(node_urls) <= _MOST_ADDRESSES:
        raise ConfigError(f"a client takes 1 to {_MOST_ADDRESSES} nodes", hint=_HINT)
    return tuple(dict.fromkeys(parse_address(url) for url in node_urls))
