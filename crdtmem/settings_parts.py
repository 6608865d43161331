"""What the sections of the settings share: their rules, sizes, addresses.

Problem: the sections lie in several modules, and must all refuse the same mistakes in the
same words.

Idea: one base class, and one parser for each kind of text. Parsers raise ``ValueError``;
whoever loads the settings says which setting it was (see ``config``).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["Section", "is_loopback", "is_unspecified", "parse_address", "parse_size"]

_SIZE: Final = re.compile(r"\s*([0-9][0-9_]*)\s*(B|KiB|MiB|GiB|TiB)?\s*")
_UNITS: Final = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Section(BaseModel):
    """What all sections share: frozen, nothing unknown, defaults held to the same rules."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means: ``"4096"``, ``"64 KiB"``, ``"8MiB"``.

    Raises ``ValueError`` for anything else; decimal units are refused because
    half of those who write ``MB`` mean ``MiB``.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with KiB, MiB, GiB or TiB")
    return int(match[1].replace("_", "")) * _UNITS[match[2]]


def parse_address(text: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """Split ``"HOST:PORT"`` or ``"[IPV6]:PORT"`` into host and port.

    ``lowest_port=0`` admits port 0, "any free one". Raises ``ValueError``.
    """
    host, colon, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif not colon or not host or ":" in host or any(map(str.isspace, host)):
        raise ValueError(f"{text!r} is not HOST:PORT (an IPv6 address goes in brackets)")
    if not (digits.isascii() and digits.isdigit() and lowest_port <= int(digits) <= 65535):
        raise ValueError(f"{text!r} has no port between {lowest_port} and 65535")
    return host, int(digits)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only, as far as its text tells."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: only this one is loopback by definition
        return host == "localhost"


def is_unspecified(host: str) -> bool:
    """Whether a host means every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
