"""The sections of the settings that are about clients: how they reach a node.

Problem: whoever can reach a node's HTTP port can read and write all of its memory. Until
clients show keys, the only wall is the machine itself.

Rules:
1. HTTP is off unless it is asked for, and listens on loopback only; anything else is
   refused, with what to do instead.
2. What a client could let grow or wait is bounded by a setting: connections, and how long
   a request may take to arrive. What all of them together may, by section ``admission``.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator as After
from pydantic import Field

from crdtmem.errors import ConfigError
from crdtmem.settings_parts import Section, is_loopback, parse_address

__all__ = ["Admission", "Http"]

_DAY_MS: Final = 24 * 3_600_000
_MIB: Final = 1024 * 1024
_MEMORY_PER_FLIGHT: Final = 8
"""How many times its size in flight a request may take in memory, the hard bound included."""


def _check_http_listen(text: str) -> str:
    if text:
        host, _ = parse_address(text, lowest_port=0)
        if not is_loopback(host):
            raise ValueError(
                f"{text!r} can be reached from other machines, and clients show no keys yet; "
                "listen on 127.0.0.1, [::1] or localhost, and put a proxy that knows its users "
                "in front of it"
            )
    return text


class Http(Section):
    """The HTTP API: where it listens, and what one client may take of it."""

    listen: Annotated[str, After(_check_http_listen)] = Field(
        "",
        description="HOST:PORT of the HTTP API, on loopback only; port 0 takes any that is free. "
        "Empty: no HTTP. Whoever can connect to it controls the node.",
    )
    connections: int = Field(
        256,
        ge=1,
        le=65_536,
        description="Most clients connected at once; those beyond it are told to come back. Each "
        "costs about 50 KiB, and one descriptor.",
    )
    receive_ms: int = Field(
        10_000,
        ge=100,
        le=_DAY_MS,
        description="How long the head of a request may take to arrive, and then its body. Less "
        "frees what slow or silent clients hold sooner; more suits bad links.",
    )
    stalled_ms: int = Field(
        30_000,
        ge=100,
        le=_DAY_MS,
        description="How long a client may leave its answer unread before it is cut off. An "
        "answer that nobody takes is memory held.",
    )
    idle_ms: int = Field(
        75_000,
        ge=100,
        le=_DAY_MS,
        description="How long a connection may rest between two requests. More spares clients "
        "reconnecting; a proxy before the node should rest less than this.",
    )


class Admission(Section):
    """How much unanswered work a node takes in from all its clients together."""

    in_flight_operations: int = Field(
        8_192,
        ge=1,
        description="Requests of all clients that may be unanswered before those above their "
        "fair share wait; newcomers may take it to twice as many. Fewer, down to an eighth, where "
        "they take more than a quarter of a second. Less saves memory with very many clients.",
    )
    in_flight_bytes: int = Field(
        32 * _MIB,
        ge=64 * 1024,
        description="The same in bytes, as received; at least limits.frame_bytes. In memory a "
        "request takes several times as much until it is answered.",
    )
    unread_bytes: int = Field(
        64 * _MIB,
        ge=64 * 1024,
        description="Bytes of answers that all clients together may leave unread. Beyond it "
        "those who read nothing of theirs are cut off, whoever holds most first.",
    )
    streams: int = Field(
        1_024,
        ge=1,
        description="Feeds, exports and other answers in parts that may be open at once. Each "
        "holds a few parts, and a feed up to 8 MiB while its reader lags.",
    )
    streams_per_client: int = Field(
        64,
        ge=1,
        description="How many of them one connection may have open. Less keeps one client from "
        "taking all.",
    )
    receive_ms: int = Field(
        30_000,
        ge=100,
        le=_DAY_MS,
        description="How long a frame of more than 64 KiB may take to arrive over the control "
        "socket, once it has found room. Less frees what silent clients hold sooner.",
    )
    memory_bytes: int = Field(
        0,
        ge=0,
        description="Memory of the process, as the system counts it, above 85 % of which new "
        "writes are refused, until it is below 75 %; reads and deletes go on. 0: no such ceiling. "
        "At least eight times admission.in_flight_bytes, which is what is taken in meanwhile.",
    )

    def check_memory(self) -> None:
        """Raise ``ConfigError`` for a ceiling that what is in flight alone may exceed."""
        least = _MEMORY_PER_FLIGHT * self.in_flight_bytes
        if 0 < self.memory_bytes < least:
            raise ConfigError(
                f"admission.memory_bytes is {self.memory_bytes}, less than {_MEMORY_PER_FLIGHT} "
                f"times admission.in_flight_bytes, which is {self.in_flight_bytes}",
                hint=f"raise memory_bytes to at least {least}, or lower in_flight_bytes",
                settings=("admission.memory_bytes", "admission.in_flight_bytes"),
            )
