"""Two kinds of agents side by side, ours and serf's, told and asked in the same way.

Problem: a comparison is worth nothing unless both sides run at the same time, under the same
faults, and what happens is timed by the same clock.

Idea: each agent is a process in a namespace of its own, on one bridge with those of the other
kind. What it says of members and payloads is read line by line, and becomes the same events for
both kinds; the reader's clock times them. Faults are laid upon all namespaces alike.
"""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from tests.end_to_end.namespaces import Network, Octets, Place
from tests.end_to_end.talkers import BareMember, Talker
from tests.waiting import wait_until

__all__ = ["Agents", "Ours", "Serfs", "serf_is_here"]

_PORT: Final = 7946
_KEY: Final = bytes(range(32))
_STATES: Final = {"Join": "alive", "Update": "alive", "Failed": "dead", "Leave": "left"}
_MEMBER: Final = re.compile(r"serf: EventMember(Join|Update|Failed|Leave): (\S+)")
_PAYLOAD: Final = re.compile(r"Received event: user-event: (\S+)")


def serf_is_here() -> bool:
    """Whether the peer can be measured."""
    return shutil.which("serf") is not None


def serf_line(line: str) -> dict[str, Any] | None:
    """Read a line of serf's log as what a bare member would say."""
    if found := _MEMBER.search(line):
        return {"event": "member", "state": _STATES[found[1]], "name": found[2]}
    if found := _PAYLOAD.search(line):
        return {"event": "payload", "payload": found[1]}
    return None


class Agents(ABC):
    """A cluster of one kind, one agent per place."""

    kind = ""

    def __init__(self, network: Network, places: Sequence[Place], profile: str) -> None:
        self.network = network
        self.places = places
        self.profile = profile
        self.agents: list[Talker] = []
        self._told = 0

    def names(self) -> list[str]:
        """Return everybody's name, in the order of places."""
        return [f"m{index}" for index in range(len(self.places))]

    @abstractmethod
    def launch(self, index: int) -> Talker:
        """Start the agent of one place, for the first time or again."""

    @abstractmethod
    def broadcast(self, index: int, payload: str) -> None:
        """Let one agent tell everybody something."""

    def start_all(self) -> None:
        """Start everybody, the first one first."""
        for index in range(len(self.places)):
            self.agents.append(self.launch(index))
            if index == 0:
                wait_until(lambda: self._ready(self.agents[0]), f"{self.kind} agent", timeout_s=60)

    def _ready(self, agent: Talker) -> bool:
        return bool(agent.events)

    def restart(self, index: int) -> None:
        """Start a killed agent again."""
        self.agents[index] = self.launch(index)

    def kill(self, index: int) -> float:
        """Kill an agent; return when."""
        self.agents[index].send(signal.SIGKILL)
        at_s = time.monotonic()
        self.agents[index].end()
        return at_s

    def close(self) -> None:
        """End them all."""
        for agent in self.agents:
            agent.end()

    # ------------------------------------------------------------------ what they said

    def state(self, seer: int, name: str) -> str | None:
        """Return what one believes of another."""
        for event in reversed(self.agents[seer].events):
            if event.said.get("name") == name and event.said.get("event") == "member":
                return str(event.said["state"])
        return None

    def whole(self) -> bool:
        """Whether everybody sees everybody alive. ``AssertionError`` if an agent has ended."""
        for agent in self.agents:
            assert agent.runs, f"an agent of {self.kind} ended: {''.join(agent.noise)[-2000:]}"
        return all(
            self.state(seer, name) == "alive"
            for seer in range(len(self.agents))
            for index, name in enumerate(self.names())
            if index != seer
        )

    def said_dead(self, name: str, since_s: float) -> list[float]:
        """Return when each agent that still runs first called that member dead since then."""
        found = []
        for agent in self.agents:
            if not agent.runs:
                continue
            for event in list(agent.events):
                said = event.said
                dead = said.get("name") == name and said.get("state") == "dead"
                if dead and event.at_s >= since_s:
                    found.append(event.at_s)
                    break
        return found

    def deaths(self, since_s: float) -> list[tuple[int, str]]:
        """Return every death called since then: who called it, and of whom."""
        return [
            (seer, str(event.said["name"]))
            for seer, agent in enumerate(self.agents)
            for event in list(agent.events)
            if event.at_s >= since_s and event.said.get("state") == "dead"
        ]

    def tell(self) -> Callable[[], list[float]]:
        """Broadcast from the first agent; return a function that returns when each heard it, the
        sender first."""
        self._told += 1
        before = [len(agent.named("payload")) for agent in self.agents]
        self.broadcast(0, f"payload-{self._told}")

        def heard() -> list[float]:
            news = [
                agent.named("payload")[count:]
                for agent, count in zip(self.agents, before, strict=True)
            ]
            return [events[0].at_s for events in news if events]

        return heard

    # ------------------------------------------------------------------ what they cost

    def octets(self) -> list[Octets]:
        """Return what each has sent and received so far."""
        every = dict(zip(self.network.places, self.network.octets(), strict=True))
        return [every[place] for place in self.places]

    def cpu_s(self) -> list[float]:
        """Return the processor time of each so far."""
        times = [psutil.Process(agent.pid).cpu_times() for agent in self.agents]
        return [spent.user + spent.system for spent in times]


class Ours(Agents):
    """``python -m gossip``."""

    kind = "gossip"

    def __init__(
        self, network: Network, places: Sequence[Place], profile: str, folder: Path
    ) -> None:
        super().__init__(network, places, profile)
        self._folder = folder

    def launch(self, index: int) -> BareMember:
        place, first = self.places[index], self.places[0]
        name = self.names()[index]
        return BareMember(
            name, f"{place.host}:{_PORT}",
            "--profile", self.profile, "--key", _KEY.hex(),
            "--state", str(self._folder / f"{place.name}.state"),
            join=[f"{first.host}:{_PORT}"] if index else [], prefix=place.prefix,
        )  # fmt: skip

    def broadcast(self, index: int, payload: str) -> None:
        self.agents[index].send(signal.SIGUSR2)


class Serfs(Agents):
    """``serf agent``, of HashiCorp, as Debian packs it."""

    kind = "serf"

    def launch(self, index: int) -> Talker:
        place, first = self.places[index], self.places[0]
        return Talker(
            [
                *place.prefix, "serf", "agent", f"-node={self.names()[index]}",
                f"-bind={place.host}:{_PORT}", "-rpc-addr=127.0.0.1:7373",
                f"-profile={self.profile}", f"-encrypt={base64.b64encode(_KEY).decode()}",
                *([f"-retry-join={first.host}:{_PORT}", "-retry-interval=1s"] if index else []),
            ],
            serf_line,
        )  # fmt: skip

    def broadcast(self, index: int, payload: str) -> None:
        subprocess.run(
            [
                *self.places[index].prefix, "serf", "event", "-rpc-addr=127.0.0.1:7373",
                "-coalesce=false", payload,
            ],
            capture_output=True, check=True,
        )  # fmt: skip


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(line, file=sys.stderr, flush=True)
