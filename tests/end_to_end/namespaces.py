"""A network of namespaces joined by one bridge: real sockets, and real faults between them.

Problem: what a mesh does when packets vanish can only be shown where packets travel. Loopback
has no links to cut, and a route that blackholes gives the sender an error, which no real cut does.

Idea: each place is a network namespace of its own, with one veth into a bridge that lies in a
namespace too, so that nothing touches the host's network. Faults are rules of ``nft`` on the
*receiving* side: whoever sends learns nothing of them. What each place sent and received is
counted by its port of the bridge, headers and all.

Invariants: rules are replaced whole, in one transaction; ``close`` ends every process that
still runs in a place, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple, Self

__all__ = ["Meter", "Network", "Octets", "Place"]

_numbers = count()
_CHAIN: Final = "type filter hook input priority 0; policy accept;"


class Octets(NamedTuple):
    """What passed a place's port so far, in bytes and in packets of Ethernet."""

    sent: int
    received: int
    packets_sent: int


class Place(NamedTuple):
    """One namespace: its name, its address, and what a command line begins with to run there."""

    name: str
    host: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that runs in this place."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """So many places on one bridge. A context manager."""

    def __init__(self, places: int) -> None:
        tag = f"cm{os.getpid()}x{next(_numbers)}"
        self._switch = f"{tag}-switch"
        self.places = [
            Place(f"{tag}-{number}", f"10.99.{number >> 8}.{number & 255}")
            for number in range(1, places + 1)
        ]
        self._rules: dict[Place, list[str]] = {place: [] for place in self.places}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        for name in (self._switch, *(place.name for place in self.places)):
            _run("ip", "netns", "add", name)
        _batch(self._switch, ["link add bridge0 type bridge", "link set bridge0 up"])
        ports = []
        for number, place in enumerate(self.places):
            ports += [
                f"link add port{number} type veth peer name eth0 netns {place.name}",
                f"link set port{number} master bridge0",
                f"link set port{number} up",
            ]
        _batch(self._switch, ports)
        for place in self.places:
            up = [f"addr add {place.host}/16 dev eth0", "link set eth0 up", "link set lo up"]
            _batch(place.name, up)

    def close(self) -> None:
        """End what runs there, and take everything down. Idempotent."""
        for name in (*(place.name for place in self.places), self._switch):
            listed = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    # ------------------------------------------------------------------ faults

    def deafen(self, receiver: Place, senders: Sequence[Place], *, protocol: str = "") -> None:
        """Let nothing (or nothing of ``udp`` or ``tcp``) arrive at one place from some others."""
        kind = f"meta l4proto {protocol} " if protocol else ""
        hosts = ", ".join(sender.host for sender in senders)
        self._rules[receiver].append(f"ip saddr {{ {hosts} }} {kind}drop")
        self._apply(receiver)

    def split(self, one: Sequence[Place], other: Sequence[Place]) -> None:
        """Cut both ways between two groups."""
        for place in one:
            self.deafen(place, other)
        for place in other:
            self.deafen(place, one)

    def lose(self, percent: int) -> None:
        """Lose so many of all packets, everywhere, by chance."""
        for place in self.places:
            self._rules[place].append(
                f"ip saddr 10.99.0.0/16 numgen random mod 100 < {percent} drop"
            )
            self._apply(place)

    def heal(self) -> None:
        """Let everything pass again."""
        for place, rules in self._rules.items():
            if rules:
                rules.clear()
                self._apply(place)

    def _apply(self, place: Place) -> None:
        rules = "\n".join(self._rules[place])
        table = f"table inet faults {{ chain arriving {{ {_CHAIN}\n{rules}\n}}\n}}"
        script = f"table inet faults {{}}\ndelete table inet faults\n{table}\n"
        _run(*place.prefix, "nft", "-f", "-", given=script)

    # ------------------------------------------------------------------ counting

    def octets(self) -> list[Octets]:
        """Return what passed each place's port so far, in the order of ``places``."""
        links = json.loads(_run("ip", "-n", self._switch, "-s", "-j", "link"))
        by_name = {link["ifname"].partition("@")[0]: link["stats64"] for link in links}
        found = []
        for number in range(len(self.places)):
            stats = by_name[f"port{number}"]
            # What the port receives is what the place has sent.
            found.append(Octets(stats["rx"]["bytes"], stats["tx"]["bytes"], stats["rx"]["packets"]))
        return found


class Meter:
    """The most that any place sent within any one second of those that were looked at."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seen: list[tuple[float, list[int]]] = []
        self.most = 0
        """Bytes per second."""
        self.look()

    def look(self, *, last: bool = False) -> None:
        """Read the counters, a few times per second at most, and once at the end."""
        now = time.monotonic()
        if self._seen and now - self._seen[-1][0] < 0.1 and not last:
            return
        sent = [octets.sent for octets in self._network.octets()]
        self._seen.append((now, sent))
        while len(self._seen) > 2 and now - self._seen[1][0] >= 1.0:
            self._seen.pop(0)
        since, before = self._seen[0]
        elapsed = max(1.0, now - since)
        self.most = max(
            self.most, *(int((b - a) / elapsed) for a, b in zip(before, sent, strict=True))
        )


def _run(*command: str, given: str = "") -> str:
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr.strip()}"
    return result.stdout


def _batch(namespace: str, lines: Sequence[str]) -> None:
    _run("ip", "-n", namespace, "-batch", "-", given="\n".join(lines) + "\n")
